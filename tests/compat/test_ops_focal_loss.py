"""Focal losses against their formulas in plain Python."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')

LOGITS = torch.tensor(
    [[0.3, -1.2, 2.0], [1.5, 0.1, -0.7], [-2.0, 0.4, 0.9], [0.2, 0.2, -3.0]],
    dtype=torch.double,
)
WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.double)


def plain_sigmoid(logits, target, gamma, alpha, weight):
    out = torch.zeros(len(logits), len(logits[0]), dtype=torch.double)
    for n, row in enumerate(logits):
        for c, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            if target[n] == c:
                loss = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                loss = -(1 - alpha) * p**gamma * math.log(1 - p)
            out[n, c] = loss * (weight[target[n]] if target[n] < len(row) else 1)
    return out


@pytest.mark.parametrize('gamma', [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize('weight', [None, WEIGHT])
def test_sigmoid_focal_loss(gamma, weight):
    target = torch.tensor([2, 0, 3, 1])  # 3 is background
    expected = plain_sigmoid(
        LOGITS.tolist(),
        target.tolist(),
        gamma,
        0.3,
        [1, 1, 1] if weight is None else weight.tolist(),
    )
    for reduction, value in (
        ('none', expected),
        ('sum', expected.sum()),
        ('mean', expected.sum() / 4),
    ):
        got = ops.sigmoid_focal_loss(LOGITS, target, gamma, 0.3, weight, reduction)
        torch.testing.assert_close(got, value)
    logits = LOGITS.clone().requires_grad_()
    for reduction in ('none', 'sum', 'mean'):
        assert gradcheck(
            lambda x, r=reduction: ops.sigmoid_focal_loss(
                x, target, gamma, 0.3, weight, r
            ),
            logits,
        )


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('weight', [None, WEIGHT])
def test_softmax_focal_loss(gamma, weight):
    target = torch.tensor([2, 0, -1, 1])  # a negative label is ignored
    rows = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    expected = []
    for row, label in zip(rows.tolist(), target.tolist(), strict=True):
        factor = 1 if weight is None or label < 0 else weight[label].item()
        p = row[label]
        loss = -0.3 * (1 - p) ** gamma * math.log(p) * factor
        expected.append(0.0 if label < 0 else loss)
    expected = torch.tensor(expected, dtype=torch.double)
    got = ops.softmax_focal_loss(LOGITS, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(got, expected)
    logits = LOGITS.clone().requires_grad_()
    for reduction in ('sum', 'mean'):
        assert gradcheck(
            lambda x, r=reduction: ops.softmax_focal_loss(
                x, target, gamma, 0.3, weight, r
            ),
            logits,
        )


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    target = torch.tensor([0, 0])
    for op, gamma in (
        (ops.sigmoid_focal_loss, 2.0),
        (ops.softmax_focal_loss, 0.0),
        (ops.softmax_focal_loss, 0.5),
    ):
        (grad,) = torch.autograd.grad(
            op(logits, target, gamma, 0.25, None, 'sum'), logits
        )
        assert grad.isfinite().all()
        assert grad[1].abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype):
    target = torch.tensor([2, 0, 3, 1])
    logits = LOGITS.to(dtype)
    exact = ops.sigmoid_focal_loss(logits.double(), target, 2.0, 0.25, None, 'none')
    got = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    assert got.dtype == dtype
    # One rounding, of the result: no worse than casting the exact value.
    torch.testing.assert_close(got, exact.to(dtype))
