"""DIST: against plain Python and the correlation of the standard library."""

import math
import statistics

import pytest
import torch

from mmkd.losses import DISTLoss, dist_loss

FUNCTION = dist_loss
# Rows, classes, temperature, inter, intra.
CASES = [
    (5, 4, 1.0, 1.0, 1.0),
    (3, 2, 4.0, 1.0, 2.0),
    (2, 6, 0.5, 3.0, 0.0),
    (7, 3, 2.0, 0.0, 1.0),
    (1, 4, 1.0, 1.0, 5.0),
]
MUTATIONS = {
    'no T squared': ('temperature**2 * ', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'no temperature': ('(x / temperature)', '(x)'),
    'logits': ('.softmax(1)', ''),
    'inter is intra': ('_correlation(s.T, t.T)', '_correlation(s, t)'),
    'no inter': ('inter * ', '0 * '),
    'no intra': ('intra * ', '0 * '),
    'sign': ('(1 - _correlation(s, t))', '(1 + _correlation(s, t))'),
    'summed': ('_correlation(s, t)).mean()', '_correlation(s, t)).sum()'),
}


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def reference(student, teacher, temperature, inter, intra) -> float:
    sides = [[softmax(row, temperature) for row in rows] for rows in (student, teacher)]
    total = inter * statistics.fmean(
        1 - statistics.correlation(s, t) for s, t in zip(*sides)
    )
    if len(student) > 1:
        columns = [list(zip(*side)) for side in sides]
        total += intra * statistics.fmean(
            1 - statistics.correlation(s, t) for s, t in zip(*columns)
        )
    return temperature**2 * total


def compare(function, rows, classes, temperature, inter, intra) -> None:
    torch.manual_seed(2)
    s, t = torch.randn(2, rows, classes, dtype=torch.float64) * 2
    expected = reference(s.tolist(), t.tolist(), temperature, inter, intra)
    actual = function(s, t, temperature, inter, intra).item()
    assert actual == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(dist_loss, *case)


def test_the_same_order_is_enough():
    """Probabilities that are a linear function of the teacher's cost nothing."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    flatter = 0.5 * p + 0.5 / 3
    assert dist_loss(flatter.log(), p.log()).item() == pytest.approx(0, abs=1e-9)
    assert dist_loss(p.flip(1).log(), p.log()) > 0.5


def test_equal_to_itself_is_zero_and_four_is_the_most():
    t = torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert dist_loss(t, t).item() == pytest.approx(0, abs=1e-12)
    assert dist_loss(-t, t).item() == pytest.approx(4, rel=1e-9)


def test_close_to_uniform_rows_still_correlate():
    t = torch.randn(5, 4, dtype=torch.float64) * 1e-4
    assert dist_loss(t.clone(), t).item() == pytest.approx(0, abs=1e-9)


def test_what_does_not_vary_gives_a_finite_gradient():
    s = torch.zeros(3, 4, requires_grad=True)
    value = dist_loss(s, torch.randn(3, 4))
    value.backward()
    assert value.item() == pytest.approx(2)
    assert s.grad.isfinite().all()


def test_maps_are_rows_of_pixels():
    s, t = torch.randn(2, 2, 3, 4, 5)
    loss = DISTLoss(at='conv_seg', loss_weight=3.0, temperature=2.0)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (s, t)]
    torch.testing.assert_close(loss(s, t), 3 * dist_loss(*rows, temperature=2.0))


def test_logits_of_other_classes_are_an_error_when_built():
    with pytest.raises(ValueError, match=r'same classes.*\(2, 3\).*\(2, 4\)'):
        DISTLoss(at='fc').prepare(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match='same classes but score 3 and 4'):
        DISTLoss().prepare(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match='one logit, whose softmax is always 1'):
        DISTLoss(at='fc').prepare(torch.zeros(2, 1), torch.zeros(2, 1))


@pytest.mark.parametrize('name', ['inter', 'intra'])
def test_weights_out_of_range_are_an_error(name):
    with pytest.raises(ValueError, match=f'{name} must be finite and >= 0 but is -1'):
        DISTLoss(**{name: -1})
