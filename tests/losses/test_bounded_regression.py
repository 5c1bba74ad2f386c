"""Bounded regression: against loops, and where the bound switches."""

import pytest
import torch

from mmkd.losses import BoundedRegressionLoss, bounded_regression_loss
from mmkd.losses.bounded_regression import in_units, is_bounded

FUNCTION = bounded_regression_loss
# Rows, margin, whether they are weighted, avg_factor.
CASES = [
    (40, 0.0, False, None),
    (40, 0.0, True, 9.0),
    (40, 1.5, False, None),
    (40, 5.0, True, None),
    (1, 0.0, False, 0.5),
]
MUTATIONS = {
    'to the teacher': ('(student - target)', '(student - teacher)'),
    'always': ('is_bounded(student, teacher, target, margin)', '1'),
    'no margin': ('target, margin)', 'target, 0)'),
    'sides exchanged': ('(student, teacher, target, margin)',
                        '(teacher, student, target, margin)'),
    'half': ('rows = error *', 'rows = 0.5 * error *'),
    'not squared': ('.square()', '.abs()'),
    'mean over the coordinates': ('.sum(1)', '.mean(1)'),
    'no weight': ('(rows, weight,', '(rows, None,'),
    'avg_factor ignored': ('weight, avg_factor)', 'weight, None)'),
    'divided by the elements': ('weight, avg_factor)',
                                'weight, avg_factor or student.numel())'),
}  # fmt: skip


def reference(student, teacher, target, margin, weight, factor) -> float:
    total = 0.0
    for n in range(len(student)):
        ours = sum((a - b) ** 2 for a, b in zip(student[n], target[n]))
        theirs = sum((a - b) ** 2 for a, b in zip(teacher[n], target[n]))
        if ours + margin > theirs:
            total += ours * (1.0 if weight is None else weight[n])
    return total / (factor or len(student))


def boxes(count: int):
    torch.manual_seed(3)
    return torch.randn(3, count, 4, dtype=torch.float64)


def compare(function, count, margin, weighted, factor) -> None:
    s, t, y = boxes(count)
    weight = torch.rand(count, dtype=torch.float64) if weighted else None
    expected = reference(
        s.tolist(), t.tolist(), y.tolist(), margin,
        None if weight is None else weight.tolist(), factor,
    )  # fmt: skip
    actual = function(s, t, y, margin, weight, factor).item()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(bounded_regression_loss, *case)


def test_the_cases_have_rows_on_both_sides_of_the_bound():
    s, t, y = boxes(40)
    counts = [is_bounded(s, t, y, m).sum().item() for m in (0.0, 1.5, 5.0)]
    assert 5 < counts[0] < counts[1] < counts[2] < 40


@pytest.mark.parametrize(
    ('margin', 'offset', 'active'),
    [
        (0.0, 2.0, False),  # as good as the teacher is good enough
        (0.0, 2.25, True),
        (0.0, 1.5, False),
        (1.75, 1.5, False),  # better by just the margin: 2.25 + 1.75 = 4
        (1.75, 1.75, True),
        (1.75, 1.25, False),
        (4.0, 0.0, False),
        (4.25, 0.0, True),  # no student can be that much better
    ],
)
def test_where_the_bound_switches(margin, offset, active):
    """The teacher's squared error is 4; all numbers are exact in binary."""
    target = torch.tensor([[1.0, 2, 3, 4]])
    teacher = target + torch.tensor([0.0, -2, 0, 0])
    student = (target + torch.tensor([0.0, 0, 0, offset])).requires_grad_()
    assert is_bounded(student, teacher, target, margin).item() == active
    value = bounded_regression_loss(student, teacher, target, margin)
    value.backward()
    assert value.item() == (offset**2 if active else 0)
    assert student.grad.tolist() == [[0, 0, 0, 2 * offset if active else 0]]


def test_it_pulls_to_the_truth_and_never_to_the_teacher():
    s, t, y = boxes(40)
    s.requires_grad_()
    t.requires_grad_()
    bounded_regression_loss(s, t, y).backward()
    assert t.grad is None
    active = is_bounded(s, t, y)
    torch.testing.assert_close(s.grad[active] * 40, 2 * (s - y)[active].detach())
    assert not s.grad[~active].any()


def test_no_rows_give_a_differentiable_zero():
    s = torch.zeros(0, 4, requires_grad=True)
    value = bounded_regression_loss(s, torch.zeros(0, 4), torch.zeros(0, 4))
    value.backward()
    assert value.item() == 0
    assert s.grad.shape == (0, 4)


@pytest.mark.parametrize('stds', [(0.1, 0.1, 0.2, 0.2), (1.0, 2.0, 0.5, 0.25)])
def test_other_units_are_what_decoding_and_encoding_gives(stds):
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    torch.manual_seed(0)
    theirs = ((0.1, -0.2, 0.05, 0.0), (0.3, 0.3, 0.4, 0.4))
    ours = ((0.0, 0.0, 0.01, 0.02), stds)
    corner, size = torch.rand(2, 30, 2, dtype=torch.float64) * 50 + 20
    priors = torch.cat([corner, corner + size], 1)
    deltas = torch.randn(30, 4, dtype=torch.float64)
    decoded = DeltaXYWHBBoxCoder(*theirs).decode(priors, deltas)
    expected = DeltaXYWHBBoxCoder(*ours).encode(priors, decoded)
    torch.testing.assert_close(
        in_units(deltas, theirs, ours).float(), expected.float(), rtol=1e-4, atol=1e-4
    )
    assert in_units(deltas, ours, ours) is deltas


def test_what_does_not_fit_is_an_error():
    s = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r'same shape but have \(2, 4\) and \(3, 4\)'):
        bounded_regression_loss(s, torch.zeros(3, 4), s)
    with pytest.raises(ValueError, match=r'same shape but have \(2, 4\) and \(3, 4\)'):
        bounded_regression_loss(s, s, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r'weight must have shape \(2,\)'):
        bounded_regression_loss(s, s, s, weight=torch.ones(3))


@pytest.mark.parametrize('margin', [-1, float('nan'), float('inf')])
def test_wrong_margins(margin):
    with pytest.raises(ValueError, match='margin must be finite and >= 0 but is'):
        BoundedRegressionLoss(margin=margin)
