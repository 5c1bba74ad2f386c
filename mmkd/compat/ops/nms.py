"""Non-maximum suppression of axis-aligned boxes."""

from __future__ import annotations

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from ._common import compute_dtype, extension_op


@extension_op
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that survive, by falling score.

    A box is dropped when its IoU with a kept box of higher score is *greater*
    than the threshold.

    Args:
        boxes: Corners (x1, y1, x2, y2) in pixels, shape (N, 4).
        scores: Shape (N, ).
        iou_threshold: Largest IoU that two kept boxes may have.
        offset: 0, or 1 for boxes whose width is x2 - x1 + 1.

    Returns:
        Kept indices, int64, shape (K, ).

    Example:
        >>> boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.]])
        >>> nms(boxes, torch.tensor([.5, .9]), iou_threshold=.5, offset=0)
        tensor([1])
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    dtype = compute_dtype(boxes, scores)
    boxes = boxes.to(dtype)
    # Growing every box by the offset gives the areas and the intersections
    # that the "+ 1" convention asks for.
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torch.ops.torchvision.nms(boxes, scores.to(dtype), float(iou_threshold))


def _overlaps(box: np.ndarray, boxes: np.ndarray, offset: int = 0) -> np.ndarray:
    """IoU of one box (4, ) with boxes (N, 4); NaN for two empty boxes."""
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = np.maximum(size + offset, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(axis=1)
    area = (box[2:] - box[:2] + offset).prod()
    with np.errstate(invalid='ignore', divide='ignore'):
        return inter / (area + areas - inter)


def _decay(
    overlap: np.ndarray, method: int, iou_threshold: float, sigma: float
) -> np.ndarray:
    """Factor on the scores of boxes that overlap a kept box.

    0 is the naive method (hard), 1 the linear one, 2 the gaussian one.
    """
    if method == 2:
        return np.exp(-overlap * overlap / sigma)
    factor = 0 if method == 0 else 1 - overlap
    return np.where(overlap >= iou_threshold, factor, 1).astype(overlap.dtype)


@extension_op
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: overlapping boxes lose score instead of being dropped.

    Reference:
        Bodla et al., Soft-NMS, ICCV 2017, https://arxiv.org/abs/1704.04503

    Args:
        boxes: Corners (x1, y1, x2, y2), shape (N, 4).
        scores: Shape (N, ).
        dets: Output, shape (N, 5): its first K rows receive the kept boxes and
            their decayed scores, in the order of selection.
        iou_threshold: Overlap from which methods 0 and 1 act.
        sigma: Width of the gaussian of method 2.
        min_score: Boxes whose decayed score is below it are dropped. The first
            selected box is always kept.
        method: 0 naive, 1 linear, 2 gaussian.
        offset: 0, or 1 for boxes whose width is x2 - x1 + 1.

    Returns:
        Indices of the kept boxes, int64, shape (K, ).
    """
    dtype = compute_dtype(boxes, scores)
    box = boxes.to(dtype).cpu().numpy()
    # A copy: the scores decay in place and the caller's must not.
    score = scores.to(dtype).cpu().numpy().copy()
    left = np.arange(len(box))
    kept, kept_scores = [], []
    while len(left):
        best = int(score[left].argmax())
        top = left[best]
        kept.append(top)
        kept_scores.append(score[top])
        left = np.delete(left, best)
        score[left] *= _decay(
            _overlaps(box[top], box[left], offset), method, iou_threshold, sigma
        )
        left = left[~(score[left] < min_score)]
    inds = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    if kept:
        dets[: len(kept), :4] = boxes[inds].to(dets)
        dets[: len(kept), 4] = torch.from_numpy(np.array(kept_scores)).to(dets)
    return inds


@extension_op
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: each kept box followed by those that it suppresses.

    Args:
        dets: Boxes with scores (x1, y1, x2, y2, score), shape (N, 5).
        iou_threshold: Boxes with at least this IoU fall to the kept box.

    Returns:
        One list of indices per kept box, both by falling score.

    Example:
        >>> dets = torch.tensor([[0., 0., 4., 4., .5], [0., 0., 4., 3., .9]])
        >>> nms_match(dets, .5)
        [[1, 0]]
    """
    array = dets.to(compute_dtype(dets)).cpu().numpy()
    left = np.argsort(-array[:, 4], kind='stable')
    groups = []
    while len(left):
        top, left = left[0], left[1:]
        falls = _overlaps(array[top, :4], array[left, :4]) >= iou_threshold
        groups.append([int(top), *left[falls].tolist()])
        left = left[~falls]
    return groups
