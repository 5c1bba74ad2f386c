"""Pair-wise loss: loops, the authors' formulas, properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import PairWiseLoss, pair_wise_loss

FUNCTION = pair_wise_loss
# Shapes of both, pool, kernel, window of it, size of the unmasked corner per image.
CASES = [
    ((2, 3, 4, 6), (2, 5, 4, 6), 'avg', 2, (2, 2), None),
    ((2, 3, 5, 3), (2, 3, 5, 3), 'max', 2, (2, 2), None),
    ((1, 4, 5, 7), (1, 2, 5, 7), 'avg', (2, 3), (2, 3), None),
    ((2, 3, 5, 6), (2, 3, 5, 6), 'max', 0.5, (2, 3), None),
    ((2, 3, 3, 3), (2, 4, 3, 3), 'avg', 1, (1, 1), None),
    ((2, 3, 4, 6), (2, 5, 4, 6), 'avg', 2, (2, 2), [(4, 3), (1, 6)]),
    ((2, 3, 4, 6), (2, 5, 4, 6), 'max', 2, (2, 2), [(3, 6), (2, 2)]),
]
MUTATIONS = {
    'no square': ('.square()', '.abs()'),
    'sum over pairs': ('squares.mean()', 'squares.sum() / len(squares)'),
    'mean over nodes': ('squares.mean()', 'squares.sum(1).mean()'),
    'other pooling': (
        '_pooled(x, pool,',
        "_pooled(x, 'avg' if pool == 'max' else 'max',",
    ),
    'all nodes': ('if mask is None:\n        return', 'if True:\n        return'),
    'sum of masked pairs': (' / pairs.sum().clamp(min=1)', ''),
    'pooled with padding': ('pool, window, mask)', 'pool, window, None)'),
}


def nodes_of(image: np.ndarray, pool: str, window, corner) -> list[np.ndarray]:
    """Pooled vectors of an image, (D, H, W), from cells inside the corner alone."""
    height, width = image.shape[1:]
    nodes = []
    for top in range(0, height, window[0]):
        for left in range(0, width, window[1]):
            cells = [
                image[:, y, x]
                for y in range(top, min(top + window[0], height))
                for x in range(left, min(left + window[1], width))
                if corner is None or (y < corner[0] and x < corner[1])
            ]
            if cells:
                stacked = np.stack(cells)
                nodes.append(stacked.mean(0) if pool == 'avg' else stacked.max(0))
    return nodes


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def reference(student, teacher, pool, window, corners=None) -> float:
    total, pairs = 0.0, 0
    for n in range(len(student)):
        corner = corners[n] if corners else None
        ours = nodes_of(student[n], pool, window, corner)
        theirs = nodes_of(teacher[n], pool, window, corner)
        for i in range(len(ours)):
            for j in range(len(ours)):
                difference = cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])
                total += difference**2
                pairs += 1
    return total / pairs


def mask_of(shape, corners) -> torch.Tensor:
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    for image, (height, width) in zip(mask, corners):
        image[:, :height, :width] = True
    return mask


def compare(function, shape, other, pool, kernel, window, corners) -> None:
    torch.manual_seed(1)
    s, t = (torch.randn(x, dtype=torch.float64) for x in (shape, other))
    expected = reference(s.numpy(), t.numpy(), pool, window, corners)
    mask = mask_of(shape, corners) if corners else None
    actual = function(s, t, pool, kernel, mask).item()
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(pair_wise_loss, *case)


def test_zero_where_affinities_agree():
    t = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    s = torch.einsum('ij,njhw->nihw', turned, t) * 5  # turned and longer
    assert pair_wise_loss(s, t, kernel=2).item() == pytest.approx(0, abs=1e-15)
    assert pair_wise_loss(torch.randn_like(t), t) > 1e-2


def test_images_are_not_mixed():
    s, t = torch.randn(2, 3, 4, 4, 6, dtype=torch.float64)
    alone = [pair_wise_loss(s[i : i + 1], t[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(pair_wise_loss(s, t), sum(alone) / 3)


@pytest.mark.parametrize(
    ('ours', 'theirs'), [((8, 12), (4, 6)), ((4, 6), (8, 12)), ((5, 12), (8, 6))]
)
def test_the_larger_map_is_pooled_to_the_smaller(ours, theirs):
    s, t = torch.randn(2, 3, *ours), torch.randn(2, 5, *theirs)
    size = [min(a, b) for a, b in zip(ours, theirs)]
    expected = pair_wise_loss(
        F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
    )
    torch.testing.assert_close(pair_wise_loss(s, t), expected)


@pytest.mark.parametrize('pool', ['avg', 'max'])
@pytest.mark.parametrize('detach_norms', [False, True])
def test_the_gradient_is_exact_and_the_norms_may_be_constants(pool, detach_norms):
    s = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 4, 4, 5, dtype=torch.float64)

    def loss(x):
        return pair_wise_loss(x, t, pool, 2, None, detach_norms)

    torch.testing.assert_close(loss(s), pair_wise_loss(s, t, pool, 2))
    if not detach_norms:
        assert torch.autograd.gradcheck(loss, (s,))
        return
    (theirs,) = torch.autograd.grad(loss(s), s)
    (ours,) = torch.autograd.grad(pair_wise_loss(s, t, pool, 2), s)
    assert (theirs - ours).abs().max() > 1e-4
    if pool == 'avg':  # longer features cost nothing: no radial part
        assert (ours * s).sum().abs() < 1e-6 < (theirs * s).sum().abs()


def authors_code(s: torch.Tensor, t: torch.Tensor, scale: float) -> float:
    """Max pooling by int(size * scale), norms + 1e-8, sum / nodes^2 / images."""
    window = tuple(int(side * scale) for side in t.shape[2:])
    total = 0.0
    for n in range(len(s)):
        matrices = []
        for x in (s[n], t[n]):
            nodes = F.max_pool2d(x[None], window, window, ceil_mode=True)[0].flatten(1)
            unit = nodes / (nodes.square().sum(0).sqrt() + 1e-8)
            matrices.append(unit.T @ unit)
        total += (matrices[1] - matrices[0]).square().sum().item() / nodes.shape[1] ** 2
    return total / len(s)


def test_the_later_code_of_the_authors():
    s, t = torch.randn(2, 4, 7, 9), torch.randn(2, 6, 7, 9)
    loss = PairWiseLoss('x', 0.5, pool='max', kernel=0.5, detach_norms=True)
    assert loss(s, t).item() == pytest.approx(0.5 * authors_code(s, t, 0.5), rel=1e-5)


def test_features_of_zero_are_at_right_angles_to_all():
    s = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = pair_wise_loss(s, torch.ones(1, 2, 2, 2), kernel=1)
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert s.grad.isfinite().all()
    # One such node among others gets no gradient that outshines them.
    s, t = torch.randn(2, 1, 3, 4, 4)
    s[..., 1, 1] = 0
    s.requires_grad_()
    pair_wise_loss(s, t, kernel=1).backward()
    assert s.grad[..., 1, 1].abs().max() < 10 * s.grad.abs().median()


def test_padding_is_left_out():
    samples = [BaseDataElement(metainfo=dict(img_shape=hw)) for hw in [(8, 6), (4, 8)]]
    batch = Batch(torch.zeros(2, 3, 8, 8), samples)
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    loss = PairWiseLoss(at='neck', loss_weight=2.0)
    corners = [(4, 3), (2, 4)]
    expected = 2 * reference(s.numpy(), t.numpy(), 'avg', (2, 2), corners)
    assert loss(s, t, batch).item() == pytest.approx(expected, rel=1e-5)
    changed = s.clone()
    changed[0, :, :, 3], changed[1, :, 2:] = 1e4, -1e4
    assert loss(changed, t, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('pool', ['avg', 'max'])
def test_nothing_to_compare_gives_a_differentiable_zero(pool):
    for shape in [(0, 3, 4, 4), (2, 3, 0, 4)]:
        s = torch.zeros(shape, requires_grad=True)
        pair_wise_loss(s, torch.ones(shape), pool).backward()
        assert s.grad.shape == shape
    s = torch.randn(2, 3, 4, 4, requires_grad=True)
    nothing = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    loss = pair_wise_loss(s, torch.randn(2, 3, 4, 4), pool, 2, nothing)
    loss.backward()
    assert loss.item() == 0
    assert s.grad.abs().max() == 0


def test_a_kernel_beyond_the_map_is_one_node():
    s, t = torch.randn(2, 2, 3, 4, 4)
    assert pair_wise_loss(s, t, kernel=9).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    'kernel', [0, -1, 1.5, math.inf, math.nan, 'all', (2,), (2, 0), None, True]
)
def test_rejects_kernels(kernel):
    message = 'kernel must be an integer >= 1, two of them, or a share below 1'
    with pytest.raises(ValueError, match=message):
        pair_wise_loss(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), kernel=kernel)
    with pytest.raises(ValueError, match=message):
        PairWiseLoss(kernel=kernel)


def test_rejects_what_does_not_fit():
    s = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r'same N but have \(2, 3, 4, 4\) and \(1, 3'):
        pair_wise_loss(s, s[:1])
    with pytest.raises(ValueError, match=r'shape \(N, D, H, W\)'):
        pair_wise_loss(s[..., 0], s[..., 0])
    with pytest.raises(ValueError, match="pool must be one of .* but is 'sum'"):
        pair_wise_loss(s, s, pool='sum')
    with pytest.raises(ValueError, match="pool must be one of .* but is 'sum'"):
        PairWiseLoss(pool='sum')
    with pytest.raises(ValueError, match=r'mask must have shape \(2, 1, 4, 4\)'):
        pair_wise_loss(s, s, mask=torch.ones(2, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"but 'fc' yields \(2, 3\)"):
        PairWiseLoss('fc').prepare(s[..., 0, 0], s[..., 0, 0])
