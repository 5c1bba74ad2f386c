"""Overlaps of boxes, and pooling along their borders."""

from __future__ import annotations

import torch
from torch import Tensor

from ._bilinear import sample, scatter
from ._common import extension_op, upcast


@extension_op
def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    ious: Tensor,
    mode: int,
    aligned: bool,
    offset: int,
) -> None:
    """Write the overlaps of boxes (x1, y1, x2, y2) into ``ious``.

    Args:
        bboxes1: Shape (M, 4).
        bboxes2: Shape (N, 4), with N = M if aligned.
        ious: Output, shape (M, N), or (M, ) if aligned; NaN where two boxes
            without area meet.
        mode: 0 for intersection over union, 1 for intersection over the area of
            the first box.
        aligned: Whether to compare the boxes one by one.
        offset: 0, or 1 for boxes whose width is x2 - x1 + 1.
    """
    first, second = upcast(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inter = (high - low + offset).clamp(min=0).prod(dim=-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - inter
    ious.copy_(inter / area.clamp(min=offset))


def _side(boxes: Tensor, side: int, pool_size: int) -> tuple[Tensor, Tensor]:
    """First point and step (x, y) along one side of each box (..., 4).

    Top (0) and left (1) run from the first corner, bottom (2) and right (3)
    back from the second one.
    """
    start, sign = (boxes[..., 2:], -1) if side >= 2 else (boxes[..., :2], 1)
    along = torch.zeros_like(start)
    axis = side % 2
    along[..., axis] = sign * (boxes[..., 2 + axis] - boxes[..., axis]) / pool_size
    return start, along


@extension_op
def border_align_forward(
    input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int
) -> None:
    """Write the maximum along each side of each box into ``output``.

    Reference:
        Qiu et al., BorderDet, ECCV 2020, https://arxiv.org/abs/2007.11056

    Args:
        input: Features of top, left, bottom, right, shape (N, 4C, H, W).
        boxes: Corners (x1, y1, x2, y2) in feature pixels, shape (N, B, 4).
        output: Output, shape (N, C, B, 4).
        argmax_idx: Output, int32, same shape: step of the winning point.
        pool_size: Steps on a side; ``pool_size + 1`` points are sampled.
    """
    features, corners = upcast(input, boxes)
    images = torch.arange(len(input), device=input.device)
    steps = torch.arange(pool_size + 1, device=input.device)[:, None]
    for side, part in enumerate(features.chunk(4, dim=1)):
        start, step = _side(corners, side, pool_size)
        points = (start[:, :, None] + step[:, :, None] * steps).flatten(1, 2)
        values = sample(part, images, points[..., 1], points[..., 0])
        best, winner = values.unflatten(2, (-1, pool_size + 1)).max(dim=-1)
        output[..., side] = best.to(output)
        argmax_idx[..., side] = winner.to(argmax_idx)


@extension_op
def border_align_backward(
    grad_output: Tensor,
    boxes: Tensor,
    argmax_idx: Tensor,
    grad_input: Tensor,
    pool_size: int,
) -> None:
    """Add the gradient of the features to ``grad_input`` (N, 4C, H, W)."""
    grad, corners = upcast(grad_output, boxes)
    images = torch.arange(len(boxes), device=boxes.device)
    for side, part in enumerate(grad_input.chunk(4, dim=1)):
        start, step = _side(corners, side, pool_size)
        points = start[:, None] + step[:, None] * argmax_idx[..., side, None]
        scatter(grad[..., side], images, points[..., 1], points[..., 0], part)
