"""DKD: against plain Python, the soft target that it decouples, and properties."""

import math

import pytest
import torch

from mmkd.losses import DKDLoss, dkd_loss, soft_target_loss

FUNCTION = dkd_loss
# Rows, classes, temperature, alpha, beta, weighted.
CASES = [
    (5, 4, 4.0, 1.0, 8.0, False),
    (3, 2, 1.0, 1.0, 8.0, False),
    (4, 6, 0.5, 0.0, 1.0, False),
    (4, 6, 2.0, 3.0, 0.0, True),
    (6, 3, 1.0, 1.0, 0.25, True),
]
MUTATIONS = {
    'no T squared': ('temperature**2 * ', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'no temperature': ('x / temperature', 'x'),
    'alpha on both': ('beta * others', 'alpha * others'),
    'no target': ('alpha * target', '0 * target'),
    'no others': ('beta * others', '0 * others'),
    'direction': ('log_t.exp() *', 'log_s.exp() *'),
    'direction among others': ('others_t.exp() *', 'others_s.exp() *'),
    'sign': ('(log_t - log_s)', '(log_s - log_t)'),
    'no weight': ('averaged_rows(rows, weight', 'averaged_rows(rows, None'),
}


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x) for x in row]
    return [p / sum(powers) for p in powers]


def divergence(t: list[float], s: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(t, s))


def reference(student, teacher, labels, temperature, alpha, beta, weight) -> float:
    total = 0.0
    for s, t, label, w in zip(student, teacher, labels, weight):
        target, others = [], []
        for row in (s, t):
            p = softmax([x / temperature for x in row])
            target.append([p[label], 1 - p[label]])
            rest = [x for k, x in enumerate(p) if k != label]
            others.append([x / sum(rest) for x in rest])
        value = alpha * divergence(*target[::-1]) + beta * divergence(*others[::-1])
        total += w * temperature**2 * value
    return total / len(student)


def compare(function, rows, classes, temperature, alpha, beta, weighted) -> None:
    torch.manual_seed(3)
    s, t = torch.randn(2, rows, classes, dtype=torch.float64) * 2
    labels = torch.randint(classes, (rows,))
    weight = torch.rand(rows, dtype=torch.float64) if weighted else None
    expected = reference(
        s.tolist(),
        t.tolist(),
        labels.tolist(),
        temperature,
        alpha,
        beta,
        weight.tolist() if weighted else [1] * rows,
    )
    actual = function(s, t, labels, temperature, alpha, beta, weight).item()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(dkd_loss, *case)


def test_a_soft_target_is_its_sum_with_the_teachers_doubt_as_weight():
    """The identity that the paper starts from, row by row."""
    s, t = torch.randn(2, 6, 5, dtype=torch.float64) * 2
    labels = torch.arange(6) % 5
    for n in range(6):
        row = s[n : n + 1], t[n : n + 1], labels[n : n + 1]
        doubt = 1 - (row[1] / 2).softmax(1)[0, labels[n]].item()
        value = dkd_loss(*row, temperature=2.0, alpha=1.0, beta=doubt)
        expected = soft_target_loss(*row[:2], temperature=2.0)
        torch.testing.assert_close(value, expected)


def test_certain_networks_stay_finite():
    """Where the true class takes all the rest still has an order."""
    s = torch.tensor([[200.0, 1.0, 0.0]], requires_grad=True)
    t = torch.tensor([[300.0, 0.0, 1.0]])
    value = dkd_loss(s, t, torch.tensor([0]), temperature=1.0, beta=1.0)
    value.backward()
    p = 1 / (1 + math.e)
    assert value.item() == pytest.approx((1 - 2 * p) * 1.0, rel=1e-5)
    assert s.grad.isfinite().all()


def test_what_does_not_fit_is_an_error():
    rows = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r'labels must have shape \(2,\) but .*\(3,\)'):
        dkd_loss(rows, rows, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match='at least two classes'):
        dkd_loss(rows[:, :1], rows[:, :1], torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize('label', [-1, 3, 255])
def test_classes_that_do_not_exist_are_an_error_unless_they_count_nothing(label):
    s, t = torch.randn(2, 2, 3)
    labels = torch.tensor([0, label])
    with pytest.raises(ValueError, match=rf'labels must be in \[0, 3\).*{label}'):
        dkd_loss(s, t, labels)
    value = dkd_loss(s, t, labels, weight=torch.tensor([1.0, 0.0]), avg_factor=1)
    torch.testing.assert_close(value, dkd_loss(s[:1], t[:1], labels[:1]))


def test_a_module_without_labels_is_an_error_when_built():
    maps = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="true classes.*tap one.*place of 'conv_seg'"):
        DKDLoss(at='conv_seg').prepare(maps, maps)


@pytest.mark.parametrize('name', ['alpha', 'beta'])
def test_weights_out_of_range_are_an_error(name):
    with pytest.raises(ValueError, match=f'{name} must be finite and >= 0 but is nan'):
        DKDLoss(**{name: math.nan})
