"""MobileBERT's terms: against plain Python, torch's own losses, and properties."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from test_mutations import mutate

from mmkd.losses import (
    attention_transfer,
    feature_map_transfer,
    mean_transfer,
    variance_transfer,
)

FEATURES = [feature_map_transfer, mean_transfer, variance_transfer]
# Sentences, tokens, features; valid tokens of every sentence.
SHAPES = [
    ((2, 3, 4), None),
    ((1, 1, 2), None),
    ((3, 4, 5), [4, 1, 3]),
    ((2, 2, 3), [0, 2]),
]
# Sentences, heads, tokens; the phrases that each sentence's tokens are split into.
HEADS = [
    ((1, 1, 2), None),
    ((2, 3, 4), None),
    ((2, 2, 5), [[5], [3]]),
    ((2, 2, 5), [[2, 2], [1, 1, 3]]),
]
MUTATIONS = [
    (feature_map_transfer, 'F.layer_norm(x, x.shape[-1:], eps=EPS)', 'x'),
    (feature_map_transfer, 'eps=EPS', 'eps=0.1'),
    (feature_map_transfer, '.mean(-1)', '.sum(-1)'),
    (feature_map_transfer, 'F.mse_loss', 'F.l1_loss'),
    (feature_map_transfer, '.mean(-1), mask)', '.mean(-1), None)'),
    (mean_transfer, '.square()', '.abs()'),
    (mean_transfer, 's.mean(-1)', 's.sum(-1)'),
    (mean_transfer, 't.mean(-1)).square(), mask', 't.mean(-1)).square(), None'),
    (variance_transfer, 's.var(-1, unbiased=False)', 's.var(-1)'),
    (variance_transfer, '.abs()', '.square()'),
    (variance_transfer, '.var(', '.std('),
    (variance_transfer, 'difference.abs(), mask', 'difference.abs(), None'),
    (attention_transfer, 't.softmax(-1), s.log_softmax(-1)', 's.softmax(-1), t.log()'),
    (attention_transfer, 't.softmax(-1)', 't.softmax(2)'),
    (attention_transfer, 's.log_softmax(-1)', 's.softmax(-1)'),
    (attention_transfer, '.sum(-1)', '.mean(-1)'),
    (attention_transfer, 'return -', 'return '),
    (attention_transfer, '~pairs, LOWEST', '~pairs, 0'),
    (attention_transfer, '_mean_over(rows, queries)', '_mean_over(rows, None)'),
]


def normalized(row: list[float]) -> list[float]:
    mean, variance = statistics.fmean(row), statistics.pvariance(row)
    return [(x - mean) / math.sqrt(variance + 1e-5) for x in row]


def of_a_token(function, s: list[float], t: list[float]) -> float:
    if function is mean_transfer:
        return (statistics.fmean(s) - statistics.fmean(t)) ** 2
    if function is variance_transfer:
        return abs(statistics.pvariance(s) - statistics.pvariance(t))
    return statistics.fmean((a - b) ** 2 for a, b in zip(normalized(s), normalized(t)))


def compare_features(function, shape, valid, kind=None) -> None:
    """Against plain Python; ``kind`` says which formula a mutant stands for."""
    torch.manual_seed(3)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2 + 1
    counts = valid or [shape[1]] * shape[0]
    tokens = [(n, i) for n, count in enumerate(counts) for i in range(count)]
    expected = statistics.fmean(
        of_a_token(kind or function, s[n, i].tolist(), t[n, i].tolist())
        for n, i in tokens
    )
    mask = torch.arange(shape[1]) < torch.tensor(counts)[:, None] if valid else None
    assert function(s, t, mask).item() == pytest.approx(expected, rel=1e-9)


def phrases_of(shape, phrases) -> list[list[list[int]]]:
    """Sentence -> query -> the keys that it sees."""
    sentences, _, tokens = shape
    sees = [[[] for _ in range(tokens)] for _ in range(sentences)]
    for seen, lengths in zip(sees, phrases or [[tokens]] * sentences):
        start = 0
        for length in lengths:
            for query in range(start, start + length):
                seen[query] = list(range(start, start + length))
            start += length
    return sees


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(x) for x in scores]
    return [p / sum(powers) for p in powers]


def compare_attention(function, shape, phrases) -> None:
    torch.manual_seed(4)
    sentences, heads, tokens = shape
    s, t = torch.randn(2, sentences, heads, tokens, tokens, dtype=torch.float64) * 3
    sees, rows = phrases_of(shape, phrases), []
    mask = torch.zeros(sentences, tokens, tokens, dtype=torch.bool)
    for n, queries in enumerate(sees):
        for query, keys in enumerate(queries):
            mask[n, query, keys] = True
            for head in range(heads if keys else 0):
                p, q = (
                    softmax([x[n, head, query, k].item() for k in keys]) for x in (t, s)
                )
                rows.append(-sum(a * math.log(b) for a, b in zip(p, q)))
    given = None if phrases is None else mask
    actual = function(s, t, given).item()
    assert actual == pytest.approx(statistics.fmean(rows), rel=1e-9)


@pytest.mark.parametrize('function', FEATURES)
@pytest.mark.parametrize(('shape', 'valid'), SHAPES)
def test_features_equal_the_formula(function, shape, valid):
    compare_features(function, shape, valid)


@pytest.mark.parametrize(('shape', 'phrases'), HEADS)
def test_attention_equals_the_formula(shape, phrases):
    compare_attention(attention_transfer, shape, phrases)


@pytest.mark.parametrize(('function', 'old', 'new'), MUTATIONS)
def test_the_references_notice(function, old, new):
    mutant = mutate(function, old, new)

    def compare_all() -> None:
        if function is attention_transfer:
            for case in HEADS:
                compare_attention(mutant, *case)
        else:
            for case in SHAPES:
                compare_features(mutant, *case, kind=function)

    with pytest.raises(AssertionError):
        compare_all()


def test_attention_is_torchs_cross_entropy_of_soft_targets():
    torch.manual_seed(5)
    s, t = torch.randn(2, 2, 3, 4, 4)
    expected = F.cross_entropy(s.flatten(0, 2), t.softmax(-1).flatten(0, 2))
    assert attention_transfer(s, t) == pytest.approx(expected.item(), rel=1e-6)


def test_a_mask_of_tokens_is_one_of_pairs():
    torch.manual_seed(6)
    s, t = torch.randn(2, 2, 3, 4, 4)
    valid = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    pairs = valid[:, :, None] * valid[:, None, :]
    assert attention_transfer(s, t, valid) == attention_transfer(s, t, pairs)


def test_masked_scores_may_be_masked_already():
    """With minus infinity, too, and without telling the mask a second time."""
    torch.manual_seed(7)
    s, t = torch.randn(2, 1, 2, 4, 4)
    valid = torch.tensor([[True, True, True, False]])
    expected = attention_transfer(s[:, :, :3, :3], t[:, :, :3, :3])
    for lowest in (-math.inf, torch.finfo(torch.float32).min):
        a, b = (x.masked_fill(~valid[:, None, None], lowest) for x in (s, t))
        a.requires_grad_()
        value = attention_transfer(a, b, valid)
        assert value.item() == pytest.approx(expected.item())
        # Told nothing it counts the padding's queries, too.
        assert attention_transfer(a, b).isfinite()
        value.backward()
        assert a.grad.isfinite().all()


@pytest.mark.parametrize('function', FEATURES)
def test_padding_may_be_anything(function):
    torch.manual_seed(8)
    s, t = torch.randn(2, 2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = function(s, t, mask)
    s[0, 2], t[0, 2] = math.inf, math.nan
    s.requires_grad_()
    value = function(s, t, mask)
    assert torch.equal(value, expected)
    value.backward()
    assert s.grad.isfinite().all()
    assert (s.grad[0, 2] == 0).all()


@pytest.mark.parametrize('function', [*FEATURES, attention_transfer])
def test_gradients(function):
    torch.manual_seed(9)
    shape = (2, 2, 3, 3) if function is attention_transfer else (2, 3, 4)
    s, t = torch.randn(2, *shape, dtype=torch.float64).unbind(0)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    s, t = s.requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, t.detach(), mask), s)
    function(s, t, mask).backward()
    assert t.grad is None
    nothing = function(s, t, torch.zeros_like(mask))
    assert nothing == 0
    assert torch.autograd.grad(nothing, s)[0].abs().sum() == 0


@pytest.mark.parametrize('function', [*FEATURES, attention_transfer])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(function, dtype):
    torch.manual_seed(10)
    shape = (2, 2, 3, 3) if function is attention_transfer else (2, 3, 4)
    s, t = (torch.randn(2, *shape) * 50).to(dtype)
    value = function(s, t)
    assert value.dtype == torch.float32
    assert value == function(s.float(), t.float())


@pytest.mark.parametrize('function', FEATURES)
def test_features_that_do_not_fit(function):
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r'same shape but have \(2, 3, 4\) and'):
        function(x, x[:, :2])
    with pytest.raises(ValueError, match=r'\(B, T, C\) but have \(3, 4\)'):
        function(x[0], x[0])
    with pytest.raises(ValueError, match=r'mask must have shape \(2, 3\) but has'):
        function(x, x, torch.ones(2, 4))


def test_scores_that_do_not_fit():
    x = torch.zeros(2, 2, 3, 3)
    with pytest.raises(ValueError, match=r'\(B, H, T, T\) but have \(2, 3, 3\)'):
        attention_transfer(x[0], x[0])
    with pytest.raises(ValueError, match=r'\(B, H, T, T\) but have \(2, 2, 3, 2\)'):
        attention_transfer(x[..., :2], x[..., :2])
    with pytest.raises(ValueError, match=r'\(2, 3\) or \(2, 3, 3\) but has \(3, 3\)'):
        attention_transfer(x, x, torch.ones(3, 3))
