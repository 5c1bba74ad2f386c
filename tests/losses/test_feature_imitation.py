"""Feature imitation: against loops, torch's own losses, and properties."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from mmkd.adapters import FeatureImitationNeck
from mmkd.batch import Batch
from mmkd.losses import FeatureImitationLoss, feature_imitation_loss

FUNCTION = feature_imitation_loss
# Shape, norm, kind of the mask.
CASES = [
    ((2, 3, 4, 5), 'l2', None),
    ((2, 3, 4, 5), 'l1', None),
    ((4, 6), 'l2', None),
    ((2, 7, 3), 'l1', None),
    ((2, 3, 4, 5), 'l2', 'boolean'),
    ((2, 3, 4, 5), 'l1', 'boolean'),
    ((3, 2, 2, 6), 'l2', 'weights'),
]
MUTATIONS = {
    'sign': ('student - teacher', 'student + teacher'),
    'no square': ("error.square() if norm == 'l2'", "error.abs() if norm == 'l2'"),
    'no absolute value': ('else error.abs()', 'else error'),
    'sum, not mean': (' / max(error.numel(), 1)', ''),
    'mean over images only': ('max(error.numel(), 1)', 'max(error.shape[0], 1)'),
    'not per channel of the mask': (' * student.shape[1]', ''),
    'mask does not select': ('(error * mask).sum()', 'error.sum()'),
    'masked mean over all': ('selected.masked_fill(selected == 0, 1)', 'error.numel()'),
}


def reference(student, teacher, norm, mask=None) -> float:
    """Mean over the elements of a difference, weighted by position."""
    total = weight = 0.0
    for index in np.ndindex(*student.shape):
        n, _, *position = index
        w = 1.0 if mask is None else float(mask[(n, 0, *position)])
        difference = student[index] - teacher[index]
        total += w * (difference**2 if norm == 'l2' else abs(difference))
        weight += w
    return total / weight


def mask_of(shape, kind) -> torch.Tensor | None:
    weights = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64)
    return {None: None, 'boolean': weights > 0.5, 'weights': weights}[kind]


def compare(function, shape, norm, kind) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64)
    mask = mask_of(shape, kind)
    expected = reference(s.numpy(), t.numpy(), norm, mask)
    actual = function(s, t, mask, norm).item()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'norm', 'kind'), CASES)
def test_equals_the_formula(shape, norm, kind):
    compare(feature_imitation_loss, shape, norm, kind)


@pytest.mark.parametrize(('norm', 'theirs'), [('l2', F.mse_loss), ('l1', F.l1_loss)])
def test_equals_the_loss_of_torch(norm, theirs):
    s, t = torch.randn(2, 2, 3, 4, 5)
    actual = feature_imitation_loss(s, t, norm=norm)
    torch.testing.assert_close(actual, theirs(s, t))


@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_zero_at_equality_and_falls_on_the_way_there(norm):
    s, t = torch.randn(2, 2, 3, 4, 4)
    assert feature_imitation_loss(t.clone(), t, norm=norm).item() == 0
    values = [
        feature_imitation_loss(torch.lerp(s, t, w), t, norm=norm).item()
        for w in (0, 0.5, 0.9)
    ]
    assert values[0] > values[1] > values[2] > 0
    power = dict(l2=2, l1=1)[norm]
    assert values[1] == pytest.approx(values[0] / 2**power, rel=1e-5)


@pytest.mark.parametrize(('norm', 'power'), [('l2', 2), ('l1', 1)])
def test_moves_along_and_scales_as_a_distance(norm, power):
    s, t = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    base = feature_imitation_loss(s, t, norm=norm)
    both = torch.randn_like(s)
    moved = feature_imitation_loss(s + both, t + both, norm=norm)
    torch.testing.assert_close(moved, base)
    scaled = feature_imitation_loss(-3 * s, -3 * t, norm=norm)
    torch.testing.assert_close(scaled, base * 3**power)


def test_weight_is_independent_of_resolution_width_and_batch():
    s, t = torch.randn(2, 2, 3, 4, 4)
    big = [x.repeat(3, 2, 2, 2) for x in (s, t)]
    torch.testing.assert_close(
        feature_imitation_loss(*big), feature_imitation_loss(s, t)
    )


def test_a_mask_equals_cropping():
    s, t = torch.randn(2, 2, 3, 4, 6)
    mask = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    mask[..., :3, :2] = True
    cropped = feature_imitation_loss(s[..., :3, :2], t[..., :3, :2])
    torch.testing.assert_close(feature_imitation_loss(s, t, mask), cropped)


@pytest.mark.parametrize('shape', [(0, 3, 4, 4), (2, 3, 0, 4), (0, 5)])
def test_empty_input_gives_a_differentiable_zero(shape):
    s = torch.zeros(shape, requires_grad=True)
    loss = feature_imitation_loss(s, torch.zeros(shape))
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == shape


def test_a_mask_that_selects_nothing_gives_a_differentiable_zero():
    s = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = feature_imitation_loss(s, torch.randn(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert s.grad.abs().max() == 0


def test_the_function_detaches_the_teacher():
    s, t = torch.randn(2, 2, 3, 4, 4).requires_grad_().unbind()
    s.retain_grad()
    t.retain_grad()
    feature_imitation_loss(s, t, torch.ones(2, 1, 4, 4)).backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None


def test_rejects_what_does_not_fit():
    s = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r'have \(2, 3, 4, 4\) and \(2, 4, 4, 4\)'):
        feature_imitation_loss(s, torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match=r'mask must have shape \(2, 1, 4, 4\)'):
        feature_imitation_loss(s, s, torch.ones(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"one of \('l2', 'l1'\) but is 'l3'"):
        feature_imitation_loss(s, s, norm='l3')


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(norm='L2'), "norm must be one of .* but is 'L2'"),
        (dict(resize='linear'), "resize must be None or one of .* but is 'linear'"),
        (
            dict(adapter=dict(in_channels=[1, 2], out_channels=[3])),
            'per level but have',
        ),
    ],
)
def test_the_class_rejects_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        FeatureImitationLoss(at='neck', **wrong)


def test_adapters_are_made_from_the_widths_also_where_these_agree():
    loss = FeatureImitationLoss(at='neck')
    s = torch.randn(1, 4, 4, 4), torch.randn(1, 6, 2, 2)
    t = torch.randn(1, 8, 4, 4), torch.randn(1, 6, 2, 2)
    loss.prepare(s, t)
    convs = loss.adapter.convs
    assert [(c.in_channels, c.out_channels) for c in convs] == [(4, 8), (6, 6)]
    terms = [
        reference(F.conv2d(x, c.weight, c.bias).detach().numpy(), y.numpy(), 'l2')
        for x, y, c in zip(s, t, convs)
    ]
    assert loss(s, t).item() == pytest.approx(sum(terms) / 2, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_adapters_are_made_where_the_student_is(dtype, device):
    loss = FeatureImitationLoss(at='neck')
    s = torch.randn(1, 4, 2, 2, dtype=dtype, device=device)
    t = torch.randn(1, 8, 2, 2, dtype=dtype)
    loss.prepare(s, t)
    assert loss.adapter.convs[0].weight.dtype == dtype
    assert loss(s, t.to(device)).device.type == device.type


@pytest.mark.parametrize(('shape', 'wide'), [((2, 4), (2, 8)), ((2, 5, 4), (2, 5, 8))])
def test_vectors_and_tokens_are_adapted_by_a_linear_layer(shape, wide):
    loss = FeatureImitationLoss(at='fc', norm='l1')
    s, t = torch.randn(shape), torch.randn(wide)
    loss.prepare(s, t)
    (layer,) = loss.adapter.convs
    adapted = F.linear(s, layer.weight, layer.bias)
    torch.testing.assert_close(loss(s, t), (adapted - t).abs().mean())


def test_an_adapter_given_by_hand_is_used():
    loss = FeatureImitationLoss(
        at='backbone', adapter=dict(in_channels=4, out_channels=8)
    )
    assert isinstance(loss.adapter, FeatureImitationNeck)
    loss.prepare(None, None)  # no dry run was possible, and none is needed
    s, t = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2)
    conv = loss.adapter.convs[0]
    expected = (F.conv2d(s, conv.weight, conv.bias) - t).square().mean()
    torch.testing.assert_close(loss(s, t), expected)


@MODELS.register_module(force=True)
class DoublingAdapter(nn.Module):
    def forward(self, features):
        return tuple(x.repeat(1, 2, 1, 1) for x in features)


def test_any_module_serves_as_an_adapter():
    loss = FeatureImitationLoss(
        at='neck', adapter=dict(type='mmengine.DoublingAdapter')
    )
    s, t = torch.randn(1, 2, 2, 2), torch.randn(1, 4, 2, 2)
    loss.prepare(s, t)
    assert isinstance(loss.adapter, DoublingAdapter)
    expected = (s.repeat(1, 2, 1, 1) - t).square().mean()
    torch.testing.assert_close(loss(s, t), expected)


def test_an_adapter_of_another_width_is_an_error_when_built():
    adapter = dict(in_channels=4, out_channels=6)
    loss = FeatureImitationLoss(at='neck', adapter=adapter)
    with pytest.raises(ValueError, match="teacher's width 8 but yields"):
        loss.prepare(torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2))


@pytest.mark.parametrize('missing', ['student', 'teacher'])
def test_without_a_dry_run_the_widths_are_asked_for(missing):
    seen = dict(student=torch.zeros(1, 2, 2, 2), teacher=torch.zeros(1, 2, 2, 2))
    seen[missing] = None
    with pytest.raises(ValueError, match=r'give adapter=dict\(in_channels=\.\.\., out'):
        FeatureImitationLoss(at='neck').prepare(**seen)


def test_resize_brings_the_teacher_to_the_students_size():
    loss = FeatureImitationLoss(at='neck', resize='area')
    s, t = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 4, 4)
    loss.prepare(s, t)
    nn.init.dirac_(loss.adapter.convs[0].weight)
    nn.init.zeros_(loss.adapter.convs[0].bias)
    # The mean of every 2x2 block of the teacher.
    small = torch.zeros_like(s)
    for y, x in np.ndindex(2, 2):
        block = t[..., 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        small[..., y, x] = block.mean((2, 3))
    torch.testing.assert_close(loss(s, t), (s - small).square().mean())


@pytest.mark.parametrize('mode', ['nearest', 'bilinear', 'bicubic', 'area'])
def test_every_resize_mode_keeps_a_constant_map(mode):
    adapter = dict(type='mmengine.DoublingAdapter')
    loss = FeatureImitationLoss(at='neck', adapter=adapter, resize=mode)
    s, t = torch.full((1, 1, 3, 5), 2.0), torch.full((1, 2, 6, 4), 5.0)
    loss.prepare(s, t)
    assert loss(s, t).item() == pytest.approx(9.0, rel=1e-5)


def test_sizes_that_differ_without_resize_are_an_error_when_built():
    loss = FeatureImitationLoss(at='neck')
    with pytest.raises(
        ValueError, match=r"\(1, 2, 2, 2\) and \(1, 2, 4, 4\).*resize='bilinear'"
    ):
        loss.prepare(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize('resize', [None, 'bilinear'])
def test_sequences_of_other_lengths_are_an_error_when_built(resize):
    loss = FeatureImitationLoss(at='neck', resize=resize)
    with pytest.raises(ValueError, match=r'\(2, 5, 4\) and \(2, 6, 4\)'):
        loss.prepare(torch.zeros(2, 5, 4), torch.zeros(2, 6, 4))


def test_other_layouts_are_an_error_when_built():
    loss = FeatureImitationLoss(at='neck')
    with pytest.raises(
        ValueError, match=r'one layout .*\(1, 2, 4, 4\) and \(1, 2, 4\)'
    ):
        loss.prepare(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4))


def test_padding_is_left_out():
    samples = [BaseDataElement(metainfo=dict(img_shape=hw)) for hw in [(8, 4), (4, 8)]]
    batch = Batch(torch.zeros(2, 3, 8, 8), samples)
    s, t = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :, :2] = mask[1, :, :2] = 1
    expected = reference(s.numpy(), t.numpy(), 'l2', mask.numpy())
    actual = FeatureImitationLoss(at='neck')(s, t, batch)  # not prepared: no adapter
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_what_is_masked_may_be_infinite():
    s, t = torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, 2)
    t[..., 1] = float('inf')
    mask = torch.tensor([[[[True, False]]]])
    assert feature_imitation_loss(s, t, mask).item() == 1


def pyramid(width: int, *sizes: int) -> tuple:
    return tuple(torch.randn(2, width, size, size) for size in sizes)


@pytest.mark.parametrize('given', ['stride', [[0, 1], [1, 2]]])
def test_levels_of_one_stride_are_compared_whatever_their_index(given):
    loss = FeatureImitationLoss(at='neck', levels=given)
    s, t = pyramid(2, 4, 2, 1), pyramid(3, 8, 4, 2)
    loss.prepare(s, t)
    assert len(loss.adapter.convs) == 2
    expected = [
        (conv(ours) - theirs).square().mean()
        for conv, ours, theirs in zip(loss.adapter.convs, s, t[1:])
    ]
    torch.testing.assert_close(loss(s, t), sum(expected) / 2)


def test_levels_of_other_strides_are_an_error_that_names_the_remedy():
    loss = FeatureImitationLoss(at='neck')
    for s, t in [((4, 2, 1), (8, 4, 2)), ((4, 2), (8, 4, 2))]:
        with pytest.raises(ValueError, match="set levels='stride'"):
            loss.prepare(pyramid(2, *s), pyramid(2, *t))


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('strides', "levels must be None, 'stride' or a list .* but is 'strides'"),
        ([], 'levels must be'),
        ([0, 1], 'levels must be'),
        ([[0, -1]], 'levels must be'),
        ([[0, 3]], r'pair \(0, 3\) but student and teacher have 2 and 3 levels'),
    ],
)
def test_wrong_levels_are_an_error_when_built(given, message):
    with pytest.raises(ValueError, match=message):
        FeatureImitationLoss(at='neck', levels=given).prepare(
            pyramid(2, 4, 2), pyramid(2, 8, 4, 2)
        )


def test_strides_must_tell_the_levels_apart():
    loss = FeatureImitationLoss(at='neck', levels='stride')
    with pytest.raises(ValueError, match=r'of the same size .*\(4, 4\).*\(8, 8\)'):
        loss.prepare(pyramid(2, 4), pyramid(2, 8))
    with pytest.raises(ValueError, match='of different sizes'):
        loss.prepare(pyramid(2, 4, 4), pyramid(2, 8, 4))
    with pytest.raises(ValueError, match='give levels as pairs'):
        loss.prepare(None, pyramid(2, 4))


def test_the_region_of_a_head_is_that_of_the_levels_compared(monkeypatch):
    """Its second level alone: the first one's region must not be taken."""
    import mmkd.losses.feature_imitation as module

    regions = [torch.zeros(2, 1, 4, 4).bool(), torch.ones(2, 1, 2, 2).bool()]
    monkeypatch.setattr(module, 'fine_grained_region', lambda view, batch: regions)
    batch = Batch(torch.zeros(2, 3, 8, 8), student=dict(bbox_head=None))
    s, t = pyramid(2, 4, 2), pyramid(2, 2, 1)
    loss = FeatureImitationLoss(at='neck', levels=[[1, 0]], region='fine_grained')
    value = loss(s, t, batch)
    torch.testing.assert_close(value, (s[1] - t[0]).square().mean())
