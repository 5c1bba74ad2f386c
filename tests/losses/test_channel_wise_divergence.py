"""Channel-wise divergence: against loops, torch's KL divergence, and properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import ChannelWiseDivergenceLoss, channel_wise_divergence

FUNCTION = channel_wise_divergence
# Shape, temperature, size of the unmasked upper left corner of every image.
CASES = [
    ((2, 3, 4, 5), 1.0, None),
    ((1, 2, 1, 2), 4.0, None),
    ((3, 1, 3, 3), 0.5, None),
    ((2, 3, 4, 5), 2.0, [(4, 3), (2, 5)]),
    ((2, 2, 3, 3), 3.0, [(3, 3), (1, 1)]),
]
MUTATIONS = {
    'sign': ('(log_t - log_s)', '(log_s - log_t)'),
    'direction': ('log_t.exp()', 'log_s.exp()'),
    'no T squared': (' * temperature**2', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'not per channel': (' * student.shape[1]', ''),
    'not per image': ('student.shape[0] * student.shape[1]', 'student.shape[1]'),
    'softmax over channels': ('log_softmax(-1)', 'log_softmax(1)'),
    'one softmax for all channels': ('flatten(2)', 'flatten(1)'),
    'teacher without temperature': ('.detach().flatten(2) / temperature',
                                    '.detach().flatten(2)'),
    'padding takes part': ('outside = ~mask.bool()', 'outside = (mask < 0)'),
}  # fmt: skip


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(student, teacher, temperature, corners=None) -> float:
    """T^2 / (N C) * sum over images and channels of KL over the positions."""
    total = 0.0
    images, channels = student.shape[:2]
    for n in range(images):
        height, width = corners[n] if corners else student.shape[2:]
        for c in range(channels):
            p = softmax(teacher[n, c, :height, :width].ravel() / temperature)
            q = softmax(student[n, c, :height, :width].ravel() / temperature)
            for i in range(len(p)):
                total += p[i] * (math.log(p[i]) - math.log(q[i]))
    return temperature**2 * total / (images * channels)


def mask_of(shape, corners) -> torch.Tensor:
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    for image, (height, width) in zip(mask, corners):
        image[:, :height, :width] = True
    return mask


def compare(function, shape, temperature, corners) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2
    expected = reference(s.numpy(), t.numpy(), temperature, corners)
    mask = mask_of(shape, corners) if corners else None
    actual = function(s, t, temperature, mask).item()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'temperature', 'corners'), CASES)
def test_equals_the_formula(shape, temperature, corners):
    compare(channel_wise_divergence, shape, temperature, corners)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_batchmean_of_torch_over_the_channels(temperature):
    s, t = torch.randn(2, 3, 4, 5, 6)
    rows = [x.reshape(12, 30) / temperature for x in (s, t)]
    expected = temperature**2 * F.kl_div(
        rows[0].log_softmax(1),
        rows[1].log_softmax(1),
        reduction='batchmean',
        log_target=True,
    )
    actual = channel_wise_divergence(s, t, temperature)
    torch.testing.assert_close(actual, expected)


def test_zero_at_equality_and_positive_elsewhere():
    t = torch.randn(2, 3, 4, 5)
    assert channel_wise_divergence(t.clone(), t, 2.0).item() == 0
    assert channel_wise_divergence(t + torch.randn_like(t), t, 2.0) > 1e-2


def test_a_constant_per_channel_changes_nothing():
    s, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    offsets = torch.randn(2, 2, 3, 1, 1, dtype=torch.float64) * 10
    moved = channel_wise_divergence(s + offsets[0], t + offsets[1], 2.0)
    torch.testing.assert_close(moved, channel_wise_divergence(s, t, 2.0))


def test_a_factor_does_change_the_value():
    # Where the mass lies is compared, not whether maps are proportional.
    t = torch.randn(2, 3, 4, 5)
    assert channel_wise_divergence(2 * t, t) > 1e-2


def test_the_order_of_positions_does_not_matter():
    s, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    order = torch.randperm(20)
    shuffled = [x.flatten(2)[..., order].view_as(x) for x in (s, t)]
    torch.testing.assert_close(
        channel_wise_divergence(*shuffled), channel_wise_divergence(s, t)
    )


def test_falls_on_the_way_to_the_teacher():
    s, t = torch.randn(2, 2, 3, 4, 5) * 2
    weights = (0, 0.3, 0.6, 1)
    values = [channel_wise_divergence(torch.lerp(s, t, w), t).item() for w in weights]
    assert values[0] > values[1] > values[2] > values[3] == pytest.approx(0, abs=1e-6)


def test_a_mask_equals_cropping():
    s, t = torch.randn(2, 2, 3, 6, 5, dtype=torch.float64)
    corners = [(6, 3), (2, 5)]
    masked = channel_wise_divergence(s, t, 2.0, mask_of(s.shape, corners))
    cropped = [
        channel_wise_divergence(s[n : n + 1, :, :h, :w], t[n : n + 1, :, :h, :w], 2.0)
        for n, (h, w) in enumerate(corners)
    ]
    torch.testing.assert_close(masked, sum(cropped) / 2)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_masked_positions_get_no_gradient_whatever_they_hold(dtype):
    s, t = (torch.randn(2, 1, 2, 4, 4) * 3).to(dtype)
    mask = mask_of(s.shape, [(4, 2)])
    s[..., 2:], t[..., 2:] = 3e4, -3e4
    s.requires_grad_()
    loss = channel_wise_divergence(s, t, 1.0, mask)
    loss.backward()
    torch.testing.assert_close(
        loss, channel_wise_divergence(s[..., :2], t[..., :2]), rtol=1e-5, atol=1e-6
    )
    assert s.grad[..., 2:].abs().max() == 0
    assert s.grad[..., :2].abs().min() > 0


def test_an_image_wholly_in_padding_adds_zero():
    s, t = torch.randn(2, 2, 3, 4, 5)
    mask = mask_of(s.shape, [(4, 5), (0, 0)])
    s.requires_grad_()
    loss = channel_wise_divergence(s, t, 1.0, mask)
    loss.backward()
    alone = channel_wise_divergence(s[:1], t[:1])
    torch.testing.assert_close(loss, alone / 2)
    assert s.grad.isfinite().all()
    assert s.grad[1].abs().max() == 0


@pytest.mark.parametrize('shape', [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty_input_gives_a_differentiable_zero(shape):
    s = torch.zeros(shape, requires_grad=True)
    loss = channel_wise_divergence(s, torch.zeros(shape))
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == shape


def test_rejects_what_does_not_fit():
    s = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r'have \(2, 3, 4, 4\) and \(2, 3, 4, 5\)'):
        channel_wise_divergence(s, torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r'shape \(N, C, H, W\) but have \(2, 3\)'):
        channel_wise_divergence(s[..., 0, 0], s[..., 0, 0])
    with pytest.raises(ValueError, match=r'mask must have shape \(2, 1, 4, 4\)'):
        channel_wise_divergence(s, s, mask=torch.ones(2, 4, 4))


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf')])
def test_rejects_temperatures_that_are_not_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        channel_wise_divergence(*torch.zeros(2, 1, 1, 2, 2), temperature)
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        ChannelWiseDivergenceLoss(at='neck', temperature=temperature)


def test_equal_widths_are_compared_as_they_are():
    loss = ChannelWiseDivergenceLoss(at='neck', temperature=4.0, loss_weight=3.0)
    s, t = torch.randn(2, 2, 3, 4, 5)
    loss.prepare(s, t)
    assert loss.adapter is None
    torch.testing.assert_close(loss(s, t), 3 * channel_wise_divergence(s, t, 4.0))


def test_other_widths_are_adapted_by_a_trained_convolution():
    loss = ChannelWiseDivergenceLoss(at='neck')
    s, t = torch.randn(2, 3, 4, 5), torch.randn(2, 7, 4, 5)
    loss.prepare((s,), (t,))
    (conv,) = loss.adapter.convs
    assert (conv.in_channels, conv.out_channels) == (3, 7)
    expected = channel_wise_divergence(F.conv2d(s, conv.weight, conv.bias), t)
    torch.testing.assert_close(loss((s,), (t,)), expected)


def test_levels_are_averaged_and_padding_is_left_out():
    samples = [BaseDataElement(metainfo=dict(img_shape=hw)) for hw in [(8, 4), (4, 8)]]
    batch = Batch(torch.zeros(2, 3, 8, 8), samples)
    s = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    terms = [
        reference(s[0].numpy(), t[0].numpy(), 2.0, [(4, 2), (2, 4)]),
        reference(s[1].numpy(), t[1].numpy(), 2.0, [(2, 1), (1, 2)]),
    ]
    loss = ChannelWiseDivergenceLoss(at='neck', temperature=2.0)
    assert loss(s, t, batch).item() == pytest.approx(sum(terms) / 2, rel=1e-5)


def test_prepare_rejects_what_can_never_fit():
    loss = ChannelWiseDivergenceLoss(at='fc')
    with pytest.raises(ValueError, match=r"'fc' yields \(2, 5\)"):
        loss.prepare(torch.zeros(2, 5), torch.zeros(2, 5))
    maps = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 4)
    with pytest.raises(ValueError, match=r'level 0.*\(1, 3, 4, 4\) and \(1, 3, 8, 4\)'):
        loss.prepare(*maps)
