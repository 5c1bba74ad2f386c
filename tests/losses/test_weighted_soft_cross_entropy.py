"""Weighted soft cross-entropy: against loops, and its two forms against each other."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses import (
    WeightedSoftCrossEntropyLoss,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)

FUNCTION = weighted_soft_cross_entropy
# Shape, background's weight and column, temperature, whether rows are weighted, factor.
CASES = [
    ((5, 4), 1.5, -1, 1.0, False, None),
    ((5, 4), 1.5, 0, 3.0, True, 7.0),
    ((3, 81), 2.0, -1, 0.5, True, None),
    ((1, 2), 0.25, 1, 4.0, False, 0.25),
    ((4, 3), 1.0, -2, 1.0, True, 3.0),
]
MUTATIONS = {
    'sign': ('rows = -(', 'rows = ('),
    'student as target': ('chance = (teacher.detach()', 'chance = (student'),
    'teacher as prediction': ('log_s = (student', 'log_s = (teacher'),
    'a divergence': ('chance * log_s', 'chance * (log_s - chance.log())'),
    'T squared': ('averaged_rows(rows,', 'averaged_rows(rows * temperature**2,'),
    'teacher without temperature': ('teacher.detach() / temperature',
                                    'teacher.detach()'),
    'student without temperature': ('student / temperature', 'student'),
    'softmax over the rows': ('.softmax(1)', '.softmax(0)'),
    'no background weight': ('] = background_weight', '] = 1'),
    'first column': ('[:, background_index]', '[:, 0]'),
    'weight on the objects': ('(of_class * ', '(1 / of_class * '),
    'mean over the classes': ('.sum(1)', '.mean(1)'),
    'no row weight': ('(rows, weight,', '(rows, None,'),
    'avg_factor ignored': ('weight, avg_factor)', 'weight, None)'),
}  # fmt: skip
BINARY_CASES = [
    (6, 1.5, 1.0, False, None),
    (6, 2.0, 3.0, True, 4.0),
    (1, 0.5, 0.5, True, None),
]


def softmax(logits) -> list:
    largest = max(logits)
    powers = [math.exp(x - largest) for x in logits]
    return [p / sum(powers) for p in powers]


def reference(student, teacher, background, column, temperature, weight, factor):
    total = 0.0
    column %= len(student[0])
    for n, (s, t) in enumerate(zip(student, teacher)):
        p = softmax([x / temperature for x in t])
        q = softmax([x / temperature for x in s])
        row = 0.0
        for c in range(len(p)):
            row -= (background if c == column else 1.0) * p[c] * math.log(q[c])
        total += row * (1.0 if weight is None else weight[n])
    return total / (factor or len(student))


def binary_reference(student, teacher, background, temperature, weight, factor):
    total = 0.0
    for n, (s, t) in enumerate(zip(student, teacher)):
        p, q = (1 / (1 + math.exp(-x / temperature)) for x in (t, s))
        row = -p * math.log(q) - background * (1 - p) * math.log(1 - q)
        total += row * (1.0 if weight is None else weight[n])
    return total / (factor or len(student))


def rows(shape, weighted):
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2
    weight = torch.rand(shape[0], dtype=torch.float64) if weighted else None
    return s, t, weight


def compare(function, shape, background, column, temperature, weighted, factor):
    s, t, weight = rows(shape, weighted)
    expected = reference(
        s.tolist(), t.tolist(), background, column, temperature,
        None if weight is None else weight.tolist(), factor,
    )  # fmt: skip
    actual = function(s, t, background, column, temperature, weight, factor)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(weighted_soft_cross_entropy, *case)


@pytest.mark.parametrize(
    ('count', 'background', 'temperature', 'weighted', 'factor'), BINARY_CASES
)
def test_the_binary_form_equals_the_formula(
    count, background, temperature, weighted, factor
):
    s, t, weight = rows((count,), weighted)
    expected = binary_reference(
        s.tolist(), t.tolist(), background, temperature,
        None if weight is None else weight.tolist(), factor,
    )  # fmt: skip
    actual = weighted_soft_binary_cross_entropy(
        s, t, background, temperature, weight, factor
    )
    assert actual.item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_the_binary_form_is_that_of_torchs_operator():
    """Also beyond where a softplus is taken for the identity, and at weight 0."""
    torch.manual_seed(2)
    s, t = torch.randn(2, 40, 3, dtype=torch.float64) * 30
    s[0], s[1] = torch.inf, -torch.inf
    weight = torch.rand(40, dtype=torch.float64)
    weight[:2] = 0
    s.requires_grad_()
    value = weighted_soft_binary_cross_entropy(s, t, 1.7, 3.0, weight, 5.0)
    (slope,) = torch.autograd.grad(value, s)
    expected = F.binary_cross_entropy_with_logits(
        -s[2:] / 3,
        (-t[2:] / 3).sigmoid(),
        weight[2:, None],
        reduction='sum',
        pos_weight=torch.tensor(1.7, dtype=torch.float64),
    )
    torch.testing.assert_close(value, expected / 5)
    (expected,) = torch.autograd.grad(expected / 5, s)
    torch.testing.assert_close(slope[2:], expected[2:])
    assert not slope[:2].any()


def test_one_logit_is_two_of_which_one_is_zero():
    s, t, weight = rows((7,), True)
    pairs = (torch.stack([x, torch.zeros_like(x)], 1) for x in (s, t))
    torch.testing.assert_close(
        weighted_soft_binary_cross_entropy(s, t, 1.7, 2.0, weight, 3.0),
        weighted_soft_cross_entropy(*pairs, 1.7, -1, 2.0, weight, 3.0),
    )


def test_without_weights_it_is_the_cross_entropy_of_torch():
    s, t, _ = rows((9, 6), False)
    torch.testing.assert_close(
        weighted_soft_cross_entropy(s, t, 1.0), F.cross_entropy(s, t.softmax(1))
    )
    torch.testing.assert_close(
        weighted_soft_binary_cross_entropy(s[:, 0], t[:, 0], 1.0),
        F.binary_cross_entropy_with_logits(s[:, 0], t[:, 0].sigmoid()),
    )


def test_hard_teachers_stay_finite_and_the_student_learns():
    t = torch.tensor([[200.0, -200], [-200, 200]])
    s = torch.tensor([[-50.0, 50], [50, -50]], requires_grad=True)
    value = weighted_soft_cross_entropy(s, t)
    value.backward()
    assert value.item() == pytest.approx((100 + 1.5 * 100) / 2)
    assert s.grad[0, 0] < 0 < s.grad[0, 1]
    value = weighted_soft_binary_cross_entropy(s[:, 0], t[:, 0])
    assert value.item() == pytest.approx((50 + 1.5 * 50) / 2)


@pytest.mark.parametrize(
    ('function', 'shape'),
    [(weighted_soft_cross_entropy, (0, 3)), (weighted_soft_binary_cross_entropy, (0,))],
)
def test_no_rows_give_a_differentiable_zero(function, shape):
    s = torch.zeros(shape, requires_grad=True)
    value = function(s, torch.zeros(shape))
    value.backward()
    assert value.item() == 0
    assert s.grad.shape == shape


def test_what_does_not_fit_is_an_error():
    s = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r'same shape but have \(2, 3\) and \(2, 4\)'):
        weighted_soft_cross_entropy(s, torch.zeros(2, 4))
    with pytest.raises(ValueError, match='one of 3 columns but is 3'):
        weighted_soft_cross_entropy(s, s, background_index=3)
    with pytest.raises(ValueError, match=r'weight must have shape \(2,\) .* \(3,\)'):
        weighted_soft_cross_entropy(s, s, weight=torch.ones(3))
    with pytest.raises(ValueError, match='temperature must be finite and > 0'):
        weighted_soft_cross_entropy(s, s, temperature=0)
    with pytest.raises(ValueError, match=r'\(N,\) or \(N, C\) but have \(1, 2, 3\)'):
        weighted_soft_binary_cross_entropy(s[None], s[None])
    with pytest.raises(ValueError, match=r'weight must have shape \(3,\) .* \(2,\)'):
        weighted_soft_binary_cross_entropy(s[0], s[0], weight=torch.ones(2))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(mu=1.5), r'mu must be None or in \[0, 1\] but is 1.5'),
        (dict(mu=-0.1), 'mu must be None'),
        (dict(background_weight=-1), 'background_weight must be finite and >= 0'),
        (dict(temperature=0), 'temperature must be finite and > 0 but is 0'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightedSoftCrossEntropyLoss(**arguments)


def test_columns_of_sigmoids_are_classifiers_of_their_own():
    s, t = torch.randn(5, 3), torch.randn(5, 3)
    weight = torch.rand(5)
    columns = [
        weighted_soft_binary_cross_entropy(a, b, 1.5, 2.0, weight, 7.0)
        for a, b in zip(s.T, t.T)
    ]
    both = weighted_soft_binary_cross_entropy(s, t, 1.5, 2.0, weight, 7.0)
    assert both.item() == pytest.approx(sum(columns).item(), rel=1e-6)
