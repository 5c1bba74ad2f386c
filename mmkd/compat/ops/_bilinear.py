"""Bilinear sampling at points in pixel coordinates, as RoI operators need it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point and their bilinear weights.

    Points up to one pixel outside the map are moved onto its border, points
    further out weigh nothing: the convention of RoIAlign, which neither
    padding mode of ``grid_sample`` has.

    Args:
        y: Rows, any shape ``S``; pixel centres are at integers.
        x: Columns, same shape.
        height: Rows of the map.
        width: Columns of the map.

    Returns:
        Flat pixel indices (4, S), int64, and weights (4, S).

    Example:
        >>> index, weight = corners(torch.tensor(0.), torch.tensor(.25), 2, 2)
        >>> index.tolist(), weight.tolist()
        ([0, 1, 2, 3], [0.75, 0.25, 0.0, 0.0])
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y = y.clamp(0, height - 1)
    x = x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    dy, dx = y - top, x - left
    weight = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx])
    # NaN coordinates have no pixel; their weights are dropped, their index is 0.
    top, left = (torch.nan_to_num(t).long() for t in (top, left))
    bottom = (top + 1).clamp(max=height - 1)
    right = (left + 1).clamp(max=width - 1)
    index = torch.stack(
        [
            top * width + left,
            top * width + right,
            bottom * width + left,
            bottom * width + right,
        ]
    )
    return index, torch.where(inside, weight, torch.zeros_like(weight))


def weighted_sum(
    feature: Tensor, batch: Tensor, y: Tensor, x: Tensor, weight: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples of each item's own map.

    Args:
        feature: Maps, shape (N, C, H, W).
        batch: Map of each item, int64, shape (K, ).
        y: Rows, shape (K, P, G): G samples for each of P sums.
        x: Columns, same shape.
        weight: Weight of each sample, broadcastable to that shape.

    Returns:
        Shape (K, C, P); differentiable in ``feature``, ``y`` and ``x``.
    """
    num, channels, height, width = feature.shape
    items, sums = y.shape[:2]
    if y.numel() == 0:
        return feature.new_zeros(items, channels, sums)
    index, factor = corners(y, x, height, width)
    index = index + (batch * (height * width))[:, None, None]
    # A bag of four pixels per sample, whose channels lie side by side: neither
    # the samples nor indices for every channel are ever held in memory.
    table = feature.permute(0, 2, 3, 1).reshape(num * height * width, channels)
    out = F.embedding_bag(
        index.permute(1, 2, 3, 0).reshape(items * sums, -1),
        table,
        mode='sum',
        per_sample_weights=(factor * weight)
        .permute(1, 2, 3, 0)
        .reshape(items * sums, -1),
    )
    return out.view(items, sums, channels).transpose(1, 2)


def sample(feature: Tensor, batch: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples (K, C, P) at rows and columns (K, P), as above."""
    return weighted_sum(
        feature, batch, y[..., None], x[..., None], torch.ones_like(y[..., None])
    )


def scatter(
    grad: Tensor, batch: Tensor, y: Tensor, x: Tensor, grad_feature: Tensor
) -> None:
    """Add ``grad`` at points that differ by channel; all are (K, C, P)."""
    height, width = grad_feature.shape[-2:]
    index, weight = corners(y, x, height, width)
    channels = grad_feature.size(1)
    base = batch[:, None] * channels + torch.arange(channels, device=batch.device)
    total = torch.zeros_like(grad_feature, dtype=grad.dtype).reshape(-1)
    for corner in range(4):
        position = base[..., None] * (height * width) + index[corner]
        total.index_add_(0, position.reshape(-1), (grad * weight[corner]).reshape(-1))
    grad_feature.add_(total.view_as(grad_feature).to(grad_feature))
