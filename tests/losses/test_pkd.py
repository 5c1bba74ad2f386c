"""PKD: against plain Python, NumPy's correlation, and properties."""

import math
import statistics

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import PKDLoss, pkd_loss

FUNCTION = pkd_loss
# Shape, size of the unmasked upper left corner of every image.
CASES = [
    ((2, 3, 4, 5), None),
    ((1, 1, 1, 2), None),
    ((2, 3, 4, 5), [(4, 3), (2, 5)]),
    ((3, 2, 3, 3), [(3, 3), (1, 1), (2, 1)]),
]
MUTATIONS = {
    'not halved': (' / 2', ''),
    'not squared': ('.square()', '.abs()'),
    'summed': ('.mean() / 2', '.sum() / 2'),
    'per image': ('x.transpose(0, 1).flatten(1)', 'x.flatten(1)'),
    'of the whole map': ('x.mean(1, keepdim=True)', 'x.mean()'),
    'variance': ('x.std(1, keepdim=True)', 'x.var(1, keepdim=True)'),
    'padding takes part': ('mask.bool()', '(mask >= 0)'),
    'the mean stays': ('x - x.mean(1, keepdim=True)', 'x'),
    'deviation by all positions': (
        'x.std(1, keepdim=True)',
        'x.std(1, keepdim=True, unbiased=False)',
    ),
}


def reference(student, teacher, corners) -> float:
    """Half the mean over channels and positions of (s - t)^2, each channel z-scored."""
    images, channels, height, width = student.shape
    corners = corners or [(height, width)] * images
    total = count = 0
    for c in range(channels):
        scores = []
        for side in (student, teacher):
            values = [
                side[n][c][y][x]
                for n, (rows, columns) in enumerate(corners)
                for y in range(rows)
                for x in range(columns)
            ]
            mean = statistics.fmean(values)
            deviation = statistics.stdev(values)
            scores.append([(v - mean) / (deviation + 1e-6) for v in values])
        total += sum((s - t) ** 2 for s, t in zip(*scores))
        count += len(scores[0])
    return total / count / 2


def mask_of(shape, corners) -> torch.Tensor:
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    for image, (height, width) in zip(mask, corners):
        image[:, :height, :width] = True
    return mask


def compare(function, shape, corners) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2 + 1
    expected = reference(s.numpy(), t.numpy(), corners)
    mask = mask_of(shape, corners) if corners else None
    assert function(s, t, mask).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'corners'), CASES)
def test_equals_the_formula(shape, corners):
    compare(pkd_loss, shape, corners)


def test_is_one_minus_the_correlation_of_the_channels():
    s, t = torch.randn(2, 2, 5, 8, 9, dtype=torch.float64)
    rows = [x.transpose(0, 1).flatten(1).numpy() for x in (s, t)]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*rows)]
    positions = rows[0].shape[1]
    expected = (1 - np.mean(correlations)) * (positions - 1) / positions
    assert pkd_loss(s, t).item() == pytest.approx(expected, rel=1e-5)


def test_neither_scale_nor_mean_of_a_channel_matters():
    s, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    scale = torch.tensor([0.1, 3.0, 50.0], dtype=torch.float64).view(1, 3, 1, 1)
    moved = pkd_loss(s * scale + 7, t / scale - 4)
    torch.testing.assert_close(moved, pkd_loss(s, t), rtol=1e-4, atol=0)
    assert pkd_loss(scale * t + 1, t).item() == pytest.approx(0, abs=1e-9)


def test_one_position_has_no_deviation():
    s = torch.randn(1, 3, 1, 1, requires_grad=True)
    value = pkd_loss(s, torch.randn(1, 3, 1, 1))
    value.backward()
    assert value.item() == 0
    assert s.grad.abs().sum() == 0


def test_a_channel_that_is_constant_gives_a_finite_gradient():
    s = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pkd_loss(s, torch.randn(1, 2, 3, 3)).backward()
    assert s.grad.isfinite().all()


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r'same shape but have \(1, 2, 3, 3\)'):
        pkd_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r'\(N, C, H, W\) but have \(2, 3\)'):
        pkd_loss(torch.zeros(2, 3), torch.zeros(2, 3))
    mask = torch.ones(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r'mask must have shape \(1, 1, 3, 3\)'):
        pkd_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), mask)


def test_padding_of_the_batch_is_left_out():
    sample = BaseDataElement(metainfo=dict(img_shape=(16, 8)))
    batch = Batch(torch.zeros(1, 3, 16, 16), [sample])
    s, t = torch.randn(2, 1, 3, 4, 4)
    value = PKDLoss()(s, t, batch)
    torch.testing.assert_close(value, pkd_loss(s[..., :2], t[..., :2]))
    assert not math.isclose(value, pkd_loss(s, t))


def test_pyramids_of_other_strides_meet_at_equal_ones():
    sizes = [(16, 16), (8, 8), (4, 4)]
    ours = tuple(torch.randn(2, 4, *size) for size in sizes[1:])
    theirs = tuple(torch.randn(2, 4, *size) for size in sizes)
    loss = PKDLoss(levels='stride')
    loss.prepare(ours, theirs)
    expected = [pkd_loss(s, t) for s, t in zip(ours, theirs[1:])]
    torch.testing.assert_close(loss(ours, theirs), sum(expected) / 2)
    with pytest.raises(ValueError, match='same number of levels'):
        PKDLoss().prepare(ours, theirs)


def test_other_widths_are_adapted():
    ours, theirs = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    loss = PKDLoss()
    loss.prepare(ours, theirs)
    (adapted,) = loss.adapter((ours,))
    torch.testing.assert_close(loss(ours, theirs), pkd_loss(adapted, theirs))
    with pytest.raises(ValueError, match='widths differ .* give adapter='):
        PKDLoss()(ours, theirs)
