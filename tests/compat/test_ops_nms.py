"""Suppression of boxes and their overlaps, against loops in plain Python."""

import math

import numpy as np
import pytest
import torch
from ops_reference import iou

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')


def some_boxes(num=40, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 20, (num, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 15, (num, 2))], axis=1)
    return torch.tensor(boxes).float(), torch.tensor(rng.permutation(num) / num).float()


def plain_nms(boxes, scores, threshold, offset):
    kept = []
    for i in np.argsort(-scores):
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.45])
def test_nms(offset, threshold):
    boxes, scores = some_boxes()
    expected = plain_nms(boxes.numpy(), scores.numpy(), threshold, offset)
    dets, keep = ops.nms(boxes, scores, threshold, offset=offset)
    assert keep.tolist() == expected
    assert 3 < len(expected) < 40
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[keep])


def test_nms_offset_changes_the_result():
    boxes = torch.tensor([[0.0, 0, 1, 1], [1.5, 0, 2.5, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.1, offset=0)[1].tolist() == [0, 1]
    # With inclusive corners the two 2 x 2 boxes share a strip of width 0.5.
    assert ops.nms(boxes, scores, 0.1, offset=1)[1].tolist() == [0]


def test_nms_keeps_a_box_exactly_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1]) == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_nms_other_dtypes_and_numpy(dtype):
    boxes, scores = some_boxes()
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    order = plain_nms(boxes.double().numpy(), -np.arange(40.0), 0.3, 0)
    ranks = torch.arange(40, 0, -1).to(dtype)
    dets, keep = ops.nms(boxes, ranks, 0.3)
    assert keep.tolist() == order
    assert dets.dtype == dtype


def test_nms_of_nothing_and_of_numpy_arrays():
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
    boxes, scores = some_boxes()
    dets, keep = ops.nms(boxes.numpy(), scores.numpy(), 0.3, score_threshold=0.5)
    assert isinstance(dets, np.ndarray)
    assert (scores.numpy()[keep] > 0.5).all()


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    left = list(range(len(boxes)))
    scores = scores.copy()
    out = []
    while left:
        best = max(left, key=lambda i: scores[i])
        out.append((best, scores[best]))
        left.remove(best)
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 0 if method == 'naive' else 1 - overlap
            if scores[i] < min_score:
                left.remove(i)
    return out


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    boxes, scores = some_boxes()
    given = scores.clone()
    dets, keep = ops.soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
    expected = plain_soft_nms(
        boxes.double().numpy(), scores.double().numpy(), 0.3, 0.4, 0.05, method, offset
    )
    assert keep.tolist() == [index for index, _ in expected]
    assert 5 < len(keep) < 40
    torch.testing.assert_close(dets[:, :4], boxes[keep])
    torch.testing.assert_close(
        dets[:, 4].double(), torch.tensor([score for _, score in expected]).double()
    )
    assert torch.equal(scores, given)


def test_soft_nms_edge_cases():
    dets, keep = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert keep.shape == (0,)
    # The first selected box stays, however low its score.
    _, keep = ops.soft_nms(
        torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.0]), min_score=0.1
    )
    assert keep.tolist() == [0]


def test_batched_nms_keeps_classes_apart():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 3.9]])
    scores = torch.tensor([0.5, 0.9, 0.8])
    labels = torch.tensor([0, 1, 1])
    for kind in ('nms', 'soft_nms'):
        cfg = {'type': kind, 'iou_threshold': 0.5}
        if kind == 'soft_nms':
            cfg.update(min_score=0.1, method='naive')
        dets, keep = ops.batched_nms(boxes, scores, labels, cfg)
        assert keep.tolist() == [1, 0]
        torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5]))


def test_nms_match():
    boxes, scores = some_boxes()
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    array = dets.double().numpy()
    left, expected = list(np.argsort(-array[:, 4])), []
    while left:
        top = left.pop(0)
        group = [i for i in left if iou(array[top], array[i]) >= 0.3]
        left = [i for i in left if i not in group]
        expected.append([top, *group])
    groups = ops.nms_match(dets, 0.3)
    assert [group.tolist() for group in groups] == expected
    assert max(map(len, expected)) > 2
    # At the threshold a box does fall, other than in nms.
    pair = torch.tensor([[0.0, 0, 4, 4, 0.9], [0, 0, 4, 2, 0.8]])
    assert [g.tolist() for g in ops.nms_match(pair, 0.5)] == [[0, 1]]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode, offset):
    first, second = some_boxes(5, 1)[0], some_boxes(5, 2)[0]
    expected = torch.zeros(5, 5)
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            ratio = iou(a, b, offset)
            if mode == 'iof':
                areas = [
                    (v[2] - v[0] + offset) * (v[3] - v[1] + offset) for v in (a, b)
                ]
                ratio = ratio * sum(areas) / (1 + ratio) / areas[0]
            expected[i, j] = ratio
    assert (expected > 0).sum() > 5
    got = ops.bbox_overlaps(first, second, mode, offset=offset)
    torch.testing.assert_close(got, expected)
    aligned = ops.bbox_overlaps(first, second, mode, aligned=True, offset=offset)
    torch.testing.assert_close(aligned, expected.diagonal())
