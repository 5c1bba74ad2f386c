"""Convolutions on weights in blocks: the same numbers, and the weights come back."""

import copy
import pickle

import pytest
import torch
from tiny_models import detection_batch, distilled_detector, tiny_gfl
from torch import nn

from mmkd.economy import Economy
from mmkd.prepacking import Prepacking
from mmkd.taps import Tap
from mmkd.teacher import Teacher

pytestmark = pytest.mark.skipif(
    not Prepacking.is_possible(), reason='this torch has no oneDNN'
)

CONVS = dict(
    usual=dict(kernel_size=3, padding=1),
    no_bias=dict(kernel_size=1, bias=False),
    stride=dict(kernel_size=3, stride=2, padding=1),
    dilated=dict(kernel_size=3, padding=(2, 4), dilation=(2, 4)),
    depthwise=dict(kernel_size=3, padding=1, groups=8),
    uneven=dict(kernel_size=(1, 5), stride=(2, 1), padding=(0, 2)),
)


def frozen(**options):
    torch.manual_seed(0)
    return nn.Conv2d(8, 16, **options).requires_grad_(False)


def pictures(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', CONVS)
@torch.no_grad()
def test_the_same_numbers_in_both_formats_and_at_every_size(name):
    conv = frozen(**CONVS[name])
    sizes = [(2, 8, 12, 14), (1, 8, 33, 9), (3, 8, 12, 14), (0, 8, 12, 14)]
    inputs = [pictures(*size) for size in sizes]
    inputs += [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    expected = [conv(x) for x in inputs]
    weight = conv.weight.clone()
    packed = Prepacking(conv)
    for x, y in zip(inputs, expected):
        torch.testing.assert_close(conv(x), y)
    assert conv.weight.isnan().all()
    assert conv.weight.untyped_storage().nbytes() == weight.element_size()
    packed.undo()
    assert torch.equal(conv.weight, weight)
    assert torch.equal(conv(inputs[0]), expected[0])


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
    packed = Prepacking(conv)
    assert all(map(torch.equal, passes(), expected))  # nothing is in blocks yet
    conv(x)
    assert conv.weight.isnan().all()
    assert all(map(torch.equal, passes(), expected))
    in_double = conv.double()(x.double())
    torch.testing.assert_close(in_double.float(), expected[0])
    packed.undo()
    assert conv.weight.dtype == torch.float64
    assert conv.weight.isfinite().all()


def test_weights_that_two_convolutions_share():
    convs = nn.ModuleList([frozen(kernel_size=3), frozen(kernel_size=3, stride=2)])
    convs[1].weight = convs[0].weight
    x = pictures(2, 8, 9, 9)
    expected = [conv(x) for conv in convs]
    weight = convs[0].weight.clone()
    packed = Prepacking(convs)
    for conv, y in zip(convs, expected):
        torch.testing.assert_close(conv(x), y)
    packed.undo()
    assert convs[1].weight is convs[0].weight
    assert torch.equal(convs[0].weight, weight)


def test_other_convolutions_stay_as_they_are():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * self.weight.sum()

    others = nn.ModuleList(
        [
            nn.Conv2d(8, 8, 3, padding='same'),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'),
            nn.ConvTranspose2d(8, 8, 2),
            Own(8, 8, 1),
        ]
    )
    Prepacking(others)
    assert not any('forward' in vars(module) for module in others)


def test_a_copy_is_a_network_of_its_own():
    conv = frozen(kernel_size=3)
    x = pictures(1, 8, 5, 5)
    expected = conv(x)
    packed = Prepacking(conv)
    conv(x)
    twin = copy.deepcopy(conv)
    packed.undo()
    torch.testing.assert_close(twin(x), expected)
    assert twin.weight.isnan().all()
    assert torch.equal(conv(x), expected)


LOSSES = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))


def one_step(model):
    data = model.data_preprocessor(detection_batch(), True)
    return model(**data, mode='loss')['loss_hint']


def test_a_teacher_moves_travels_and_gives_its_weights_back():
    torch.manual_seed(1)
    model = distilled_detector(tiny_gfl(8), tiny_gfl(), LOSSES)
    teacher = model.distiller.teacher
    conv = teacher.model.backbone.conv1
    weight = conv.weight.clone()
    before = one_step(model)
    assert conv.weight.isnan().all()
    other = pickle.loads(pickle.dumps(teacher))
    assert torch.equal(other.model.backbone.conv1.weight, weight)
    assert torch.equal(conv.weight, weight)
    torch.testing.assert_close(one_step(model), before)
    model.double()
    assert torch.equal(conv.weight.float(), weight)
    torch.testing.assert_close(one_step(model).float(), before)
    assert conv.weight.isfinite().all()
    model.float()
    torch.testing.assert_close(one_step(model), before)
    assert conv.weight.isnan().all()


def test_a_teacher_of_which_weights_are_read_elsewhere_keeps_them_plain():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.other = nn.Conv2d(3, 4, 3)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.other(inputs) + self.conv(inputs) + self.conv.weight.sum()

    teacher = Teacher(Reads(), economy=Economy())
    teacher.economize(teacher.dry_run({'other': Tap}), {'other': None})
    assert teacher._economized._prepack  # what the tap yields is right
    teacher.economize(teacher.dry_run({'': Tap}), {'': None})
    assert not teacher._economized._prepack
