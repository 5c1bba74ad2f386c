"""Precise RoI pooling: the exact average of the bilinear surface."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ._common import chunk_size, extension_op, recomputed_grads, upcast


def _hat_integral(edge: Tensor, length: int) -> Tensor:
    """Integral of each pixel's hat function up to ``edge`` (...); (..., length).

    The hat ``max(0, 1 - |t|)`` has the antiderivative ``1/2 + t - t|t|/2`` on
    [-1, 1].
    """
    pixel = torch.arange(length, device=edge.device, dtype=edge.dtype)
    t = (edge[..., None] - pixel).clamp(-1, 1)
    return 0.5 + t - 0.5 * t * t.abs()


def _pool(
    features: Tensor,
    rois: Tensor,
    batch: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
) -> Tensor:
    """Average of each bin (K, C, ph, pw); differentiable in both inputs.

    The bilinear surface is a sum of products of a row's and a column's hat, so
    that its integral over a bin separates into two matrix products.
    """
    weights = []
    for axis, column in enumerate((2, 1)):
        low = rois[:, column] * spatial_scale
        extent = (rois[:, column + 2] * spatial_scale - low).clamp(min=0)
        step = torch.arange(size[axis] + 1, device=rois.device, dtype=low.dtype)
        edges = low[:, None] + extent[:, None] * (step / size[axis])
        integral = _hat_integral(edges, features.size(2 + axis))
        bins = (extent / size[axis])[:, None, None]
        # The inner where keeps the gradient of an empty RoI finite.
        safe = torch.where(bins > 0, bins, torch.ones_like(bins))
        weights.append(
            torch.where(bins > 0, integral.diff(dim=1) / safe, torch.zeros_like(safe))
        )
    return torch.einsum('kph,kchw,kqw->kcpq', weights[0], features[batch], weights[1])


def _parts(rois: Tensor, features: Tensor) -> list[slice]:
    """Slices of RoIs whose copies of the features fit into memory."""
    step = chunk_size(features[0].numel()) if len(features) else 1
    return [slice(lo, lo + step) for lo in range(0, len(rois), step)]


@extension_op
def prroi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the pooled features into ``output``.

    Reference:
        Jiang et al., Acquisition of Localization Confidence for Accurate
        Object Detection, ECCV 2018, https://arxiv.org/abs/1807.11590

    Args:
        input: Shape (N, C, H, W); zero outside the map.
        rois: (image, x1, y1, x2, y2) in input-image pixels, shape (K, 5).
        output: Output, shape (K, C, pooled_height, pooled_width).
        pooled_height: Bins in a column.
        pooled_width: Bins in a row.
        spatial_scale: Feature pixels per input-image pixel.
    """
    features, boxes = upcast(input, rois)
    size = (pooled_height, pooled_width)
    for part in _parts(rois, input):
        output[part] = _pool(
            features, boxes[part], rois[part, 0].long(), size, spatial_scale
        ).to(output)


@extension_op
def prroi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the features to ``grad_input`` (N, C, H, W)."""
    grad, boxes = upcast(grad_output, rois)
    size = (pooled_height, pooled_width)
    for part in _parts(rois, grad_input):
        # Pooling is linear in the features: any will do to differentiate it.
        grads = recomputed_grads(
            functools.partial(
                _pool,
                rois=boxes[part],
                batch=rois[part, 0].long(),
                size=size,
                spatial_scale=spatial_scale,
            ),
            [torch.zeros_like(grad_input, dtype=grad.dtype)],
            grad[part],
        )
        grad_input.add_(grads[0].to(grad_input))


@extension_op
def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_coor: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the coordinates to ``grad_coor`` (K, 5)."""
    grad, features, boxes = upcast(grad_output, input, rois)
    size = (pooled_height, pooled_width)
    for part in _parts(rois, input):
        grads = recomputed_grads(
            functools.partial(
                _pool,
                features,
                batch=rois[part, 0].long(),
                size=size,
                spatial_scale=spatial_scale,
            ),
            [boxes[part]],
            grad[part],
        )
        grad_coor[part] += grads[0].to(grad_coor)
