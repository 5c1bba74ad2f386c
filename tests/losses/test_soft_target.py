"""Soft targets: against loops, against torch's KL divergence, and by properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import SoftTargetLoss, soft_target_loss

FUNCTION = soft_target_loss
CASES = [
    ((4, 10), 1.0),
    ((3, 7), 4.0),
    ((1, 2), 0.5),
    ((2, 5, 3, 4), 2.0),
    ((2, 3, 6), 10.0),
]
MUTATIONS = {
    'sign': ('(log_t - log_s)', '(log_s - log_t)'),
    'direction': ('log_t.exp()', 'log_s.exp()'),
    'no T squared': (' * temperature**2', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'mean over elements': ('max(student.shape[0], 1)', 'max(student.numel(), 1)'),
    'sum over the batch': (' / max(student.shape[0], 1)', ''),
    'softmax over another axis': ('log_softmax(1)', 'log_softmax(0)'),
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 / N * sum over rows of KL(teacher || student), row by row."""
    total = 0.0
    for n in range(student.shape[0]):
        for position in np.ndindex(*student.shape[2:]):
            row = (n, slice(None), *position)
            p = softmax(teacher[row] / temperature)
            q = softmax(student[row] / temperature)
            for c in range(len(p)):
                total += p[c] * (math.log(p[c]) - math.log(q[c]))
    return temperature**2 * total / student.shape[0]


def compare(function, shape, temperature) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 3
    expected = reference(s.numpy(), t.numpy(), temperature)
    assert function(s, t, temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'temperature'), CASES)
def test_equals_the_formula(shape, temperature):
    compare(soft_target_loss, shape, temperature)


@pytest.mark.parametrize('temperature', [0.7, 1.0, 4.0])
@pytest.mark.parametrize('shape', [(6, 9), (2, 4, 5, 3)])
def test_equals_batchmean_of_torch(shape, temperature):
    s, t = torch.randn(2, *shape)
    expected = temperature**2 * F.kl_div(
        (s / temperature).log_softmax(1),
        (t / temperature).softmax(1),
        reduction='batchmean',
    )
    torch.testing.assert_close(soft_target_loss(s, t, temperature), expected)


def test_uniform_student_gives_log_classes_minus_entropy():
    t = torch.randn(1, 8, dtype=torch.float64)
    p = t.softmax(1)
    entropy = -(p * p.log()).sum()
    actual = soft_target_loss(torch.zeros_like(t), t)
    torch.testing.assert_close(actual, math.log(8) - entropy)


def test_zero_at_equality_and_positive_elsewhere():
    t = torch.randn(5, 6)
    assert soft_target_loss(t.clone(), t, 3.0).item() == 0
    assert soft_target_loss(t + torch.randn(5, 6) * 0.1, t, 3.0) > 1e-4


def test_a_constant_per_row_changes_nothing():
    s, t = torch.randn(2, 4, 6, dtype=torch.float64)
    moved = soft_target_loss(s + torch.randn(4, 1), t - torch.randn(4, 1) * 5, 2.0)
    torch.testing.assert_close(moved, soft_target_loss(s, t, 2.0))


def test_falls_on_the_way_to_the_teacher():
    s, t = torch.randn(2, 4, 6) * 2
    values = [soft_target_loss(torch.lerp(s, t, w), t).item() for w in (0, 0.3, 0.6, 1)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[1] > values[2] > values[3] == pytest.approx(0, abs=1e-6)


def test_gradient_is_that_of_squared_logits_at_high_temperature():
    # Section 2.1 of the paper: for zero-mean logits and large T the gradient of
    # T^2 KL tends to (s - t) / classes, whatever T is.
    s, t = torch.randn(2, 3, 5, dtype=torch.float64)
    s, t = (x - x.mean(1, keepdim=True) for x in (s, t))
    s.requires_grad_()
    soft_target_loss(s, t, temperature=1e4).backward()
    torch.testing.assert_close(s.grad, (s - t).detach() / 5 / 3, rtol=1e-3, atol=1e-6)


def test_gradient_at_temperature_one_is_the_difference_of_probabilities():
    s, t = torch.randn(2, 3, 5, dtype=torch.float64)
    s.requires_grad_()
    soft_target_loss(s, t).backward()
    torch.testing.assert_close(s.grad, (s.softmax(1) - t.softmax(1)).detach() / 3)


@pytest.mark.parametrize('value', [30.0, 1e4])
def test_confident_logits_stay_finite(value):
    t = torch.tensor([[value, 0.0, -value]])
    s = -t.clone()
    s.requires_grad_()
    loss = soft_target_loss(s, t)
    loss.backward()
    # The teacher's class is at -value, the most likely one at +value.
    assert loss.item() == pytest.approx(2 * value)
    torch.testing.assert_close(s.grad, torch.tensor([[-1.0, 0.0, 1.0]]))


@pytest.mark.parametrize('shape', [(0, 5), (0, 5, 2, 2), (2, 5, 0)])
def test_empty_input_gives_a_differentiable_zero(shape):
    s = torch.zeros(shape, requires_grad=True)
    loss = soft_target_loss(s, torch.zeros(shape))
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == shape


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r'same shape but have \(2, 3\) and \(2, 4\)'):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'shape \(N, C, ...\) but have \(3,\)'):
        soft_target_loss(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf')])
def test_rejects_temperatures_that_are_not_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        soft_target_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature)
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        SoftTargetLoss(at='fc', temperature=temperature)


def test_the_class_uses_its_temperature_and_averages_levels():
    s, t = torch.randn(2, 2, 4, 5)
    loss = SoftTargetLoss(at='fc', temperature=3.0, loss_weight=0.5)
    expected = (
        soft_target_loss(s[0], t[0], 3.0) + soft_target_loss(s[1], t[1], 3.0)
    ) / 2
    torch.testing.assert_close(loss(tuple(s), tuple(t)), expected * 0.5)


def test_prepare_compares_the_shapes():
    loss = SoftTargetLoss(at='fc')
    loss.prepare(torch.zeros(2, 5), torch.zeros(2, 5))
    loss.prepare(None, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r'have \(2, 5\) and \(2, 6\)'):
        loss.prepare(torch.zeros(2, 5), torch.zeros(2, 6))


def test_masked_positions_do_not_count():
    s, t = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64)
    mask = torch.zeros(2, 1, 2, 4, dtype=torch.bool)
    mask[:, :, 0] = True
    expected = soft_target_loss(s[..., :1, :], t[..., :1, :], 2.0)
    torch.testing.assert_close(soft_target_loss(s, t, 2.0, mask), expected)


def test_padding_is_masked_out():
    samples = [BaseDataElement(metainfo=dict(img_shape=(8, 4))) for _ in range(2)]
    batch = Batch(torch.zeros(2, 3, 8, 8), samples)
    s = torch.randn(2, 3, 2, 2)
    t = s.clone()
    t[..., 1] += torch.randn(2, 3, 2)  # the right half is padding
    loss = SoftTargetLoss(at='head')
    assert loss(s, t, batch).item() == pytest.approx(0, abs=1e-6)
    assert loss(s, t).item() > 0.1


def test_a_temperature_is_a_number():
    with pytest.raises(TypeError, match="temperature must be a number but is '2'"):
        SoftTargetLoss(at='head', temperature='2')


def test_one_logit_alone_is_an_error_when_the_model_is_built():
    loss = SoftTargetLoss(at='head')
    with pytest.raises(ValueError, match="'head' yields one logit per position"):
        loss.prepare(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
