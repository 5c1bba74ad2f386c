"""What losses share: levels of a tap, and arithmetic in full precision."""

import pytest
import torch

from mmkd.losses.base import DistillLoss, levels, paired_levels
from mmkd.losses.precision import full_precision


def test_levels_are_found_in_order_and_other_things_are_passed_over():
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3, dtype=torch.float16)
    counts = torch.zeros(9, dtype=torch.long)
    found = levels((a, [None, 'x', counts], dict(first=b, second=(3, c))))
    assert [id(x) for x in found] == [id(a), id(b), id(c)]


@pytest.mark.parametrize('nothing', [None, (), [torch.zeros(2, dtype=torch.long)]])
def test_a_tap_without_tensors_is_an_error(nothing):
    with pytest.raises(TypeError, match=f'but yielded {type(nothing).__name__}'):
        levels(nothing)


def test_pairs_need_equal_numbers_of_levels():
    one, two = torch.zeros(1, 4), torch.ones(1, 5)
    ((s, t),) = paired_levels(one, [two])
    assert s is one
    assert t is two
    with pytest.raises(ValueError, match=r'yield 1 \(1, 4\) and 2 \(1, 4\), \(1, 5\)'):
        paired_levels(one, (one, two))


def test_the_base_class_computes_nothing():
    with pytest.raises(NotImplementedError, match='DistillLoss must define distance'):
        DistillLoss(at='neck')(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ('given', 'computed'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_upcasts_halves_alone(given, computed):
    seen = []

    @full_precision
    def product(x, y, *, z):
        seen.extend([x.dtype, y.dtype, z.dtype])
        return (x @ y * z).sum()

    x = torch.ones(2, 2, dtype=given, requires_grad=True)
    product(x, x.detach(), z=x.detach()).backward()
    assert seen == [computed] * 3
    assert x.grad.dtype == given


def test_full_precision_switches_autocast_off_and_on_again(device):
    x = torch.ones(2, 2, device=device)
    multiply = full_precision(torch.matmul)
    with torch.autocast(device.type, torch.bfloat16):
        assert multiply(x, x).dtype == torch.float32
        assert torch.matmul(x, x).dtype == torch.bfloat16
