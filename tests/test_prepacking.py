"""Convolutions on weights in blocks: the same numbers, and weights like any others."""

import copy
import io
import pickle

import pytest
import torch
from tiny_models import detection_batch, distilled_detector, tiny_gfl
from torch import nn

from mmkd.batch import Batch
from mmkd.prepacking import PackedWeight, can_prepack, prepack
from mmkd.taps import Tap
from mmkd.teacher import Teacher

pytestmark = pytest.mark.skipif(not can_prepack(), reason='this torch has no oneDNN')

CONVS = dict(
    usual=dict(kernel_size=3, padding=1),
    no_bias=dict(kernel_size=1, bias=False),
    stride=dict(kernel_size=3, stride=2, padding=1),
    dilated=dict(kernel_size=3, padding=(2, 4), dilation=(2, 4)),
    depthwise=dict(kernel_size=3, padding=1, groups=8),
    uneven=dict(kernel_size=(1, 5), stride=(2, 1), padding=(0, 2)),
    same=dict(kernel_size=(3, 4), padding='same'),
    reflected=dict(kernel_size=3, padding=1, padding_mode='reflect'),
)


def frozen(**options):
    torch.manual_seed(0)
    return nn.Conv2d(8, 16, **options).requires_grad_(False)


def pictures(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def is_in_blocks(conv):
    return conv.weight.store[0].layout != torch.strided


@pytest.mark.parametrize('name', CONVS)
@torch.no_grad()
def test_the_same_numbers_in_both_formats_and_at_every_size(name):
    conv = frozen(**CONVS[name])
    sizes = [(2, 8, 12, 14), (1, 8, 33, 9), (3, 8, 12, 14), (0, 8, 12, 14)]
    inputs = [pictures(*size) for size in sizes]
    inputs += [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    expected = [conv(x) for x in inputs]
    weight = conv.weight.clone()
    prepack(conv)
    for x, y in zip(inputs, expected):
        torch.testing.assert_close(conv(x), y)
    assert is_in_blocks(conv)
    assert torch.equal(conv.weight, weight)


def test_what_is_not_a_plain_pass_is_the_stock_one():
    conv = frozen(kernel_size=3, padding=1)
    wanting = pictures(1, 8, 6, 6).requires_grad_()
    x = wanting.detach()

    def passes():
        with torch.autocast('cpu', torch.bfloat16):
            half = conv(x)
        y = conv(wanting)
        (gradient,) = torch.autograd.grad(y.square().sum(), wanting)
        return y, gradient, half, conv(x[0])

    expected = passes()
    prepack(conv)
    conv(x)
    assert is_in_blocks(conv)
    found = passes()
    assert all(map(torch.equal, found[:3], expected[:3]))
    torch.testing.assert_close(found[3], expected[3])


def test_it_is_moved_cast_compared_and_stored_as_the_plain_one():
    conv = frozen(kernel_size=3)
    x = pictures(2, 8, 9, 9)
    expected, weight = conv(x), conv.weight.clone()
    prepack(conv)
    conv(x)
    twins = [copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))]
    file = io.BytesIO()
    torch.save(conv.state_dict(), file)
    file.seek(0)
    twins.append(frozen(kernel_size=3))
    twins[-1].load_state_dict(torch.load(file))
    for twin in twins:
        assert torch.equal(twin.weight, weight)
        torch.testing.assert_close(twin(x), expected)
    assert 'tensor(' in repr(conv.weight)
    doubled = conv.double()
    assert doubled.weight.dtype == torch.float64
    assert torch.equal(doubled.weight, weight.double())
    torch.testing.assert_close(doubled(x.double()).float(), expected)
    again = conv.float().to(memory_format=torch.channels_last)
    assert not is_in_blocks(again)
    torch.testing.assert_close(again(x), expected)
    assert is_in_blocks(again)
    assert torch.equal(again.weight, weight)


def test_what_changes_it_changes_the_blocks():
    conv = frozen(kernel_size=3)
    x = pictures(2, 8, 9, 9)
    prepack(conv)
    conv(x)
    other = torch.randn(conv.weight.shape)
    for change in (
        lambda: conv.load_state_dict(dict(conv.state_dict(), weight=other)),
        lambda: conv.weight.mul_(2),
        lambda: conv.weight.data.zero_(),
        lambda: setattr(conv.weight, 'data', other * 3),
        lambda: nn.init.constant_(conv.weight, 0.5),
    ):
        change()
        plain = nn.functional.conv2d(x, conv.weight.clone().plain(), conv.bias)
        torch.testing.assert_close(conv(x), plain)
        assert is_in_blocks(conv)
    assert (conv.weight == 0.5).all()


def test_weights_that_two_convolutions_share():
    convs = nn.ModuleList([frozen(kernel_size=3), frozen(kernel_size=3, stride=2)])
    convs[1].weight = convs[0].weight
    x = pictures(2, 8, 9, 9)
    expected = [conv(x) for conv in convs]
    prepack(convs)
    for conv, y in zip(convs, expected):
        torch.testing.assert_close(conv(x), y)
    assert convs[1].weight is convs[0].weight


def test_only_frozen_plain_convolutions_take_part():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * self.weight.sum()

    modules = nn.ModuleList(
        [nn.Conv2d(8, 8, 1), frozen(kernel_size=1).double(), Own(8, 8, 1)]
    )
    modules[2].requires_grad_(False)
    weights = [module.weight for module in modules]
    prepack(modules)
    assert all(m.weight is w for m, w in zip(modules, weights))


LOSSES = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))


def one_step(model):
    data = model.data_preprocessor(detection_batch(), True)
    return model(**data, mode='loss')['loss_hint']


def test_a_teacher_moves_travels_and_keeps_its_weights():
    torch.manual_seed(1)
    model = distilled_detector(tiny_gfl(8), tiny_gfl(), LOSSES)
    teacher = model.distiller.teacher
    conv = teacher.model.backbone.conv1
    weights = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    before = one_step(model)
    assert is_in_blocks(conv)
    other = pickle.loads(pickle.dumps(teacher))
    for network in (teacher.model, other.model):
        for name, value in network.state_dict().items():
            assert torch.equal(value, weights[name])
    torch.testing.assert_close(one_step(model), before)
    model.double()
    torch.testing.assert_close(one_step(model).float(), before)
    model.float()
    torch.testing.assert_close(one_step(model), before)
    assert is_in_blocks(conv)


def test_a_network_that_was_given_keeps_plain_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Conv2d(3, 4, 3)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.out(inputs)

    teacher = Teacher(Net())
    teacher.economize(teacher.dry_run({'out': Tap}), {'out': None})
    teacher.run(Batch(pictures(1, 3, 8, 8)), {'out': Tap}, reads={'out': None})
    assert not isinstance(teacher.model.out.weight, PackedWeight)
