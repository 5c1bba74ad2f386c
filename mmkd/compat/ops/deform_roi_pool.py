"""Deformable RoI pooling: RoIAlign whose bins are shifted by an offset."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ._bilinear import weighted_sum
from ._common import extension_op, recomputed_grads, upcast
from .roi import bin_geometry, finite, roi_chunks, sample_points

# Indices and weights of the four pixels of a sample; its values are not kept.
_PER_SAMPLE = 8


def _pool(
    input: Tensor,
    offset: Tensor,
    batch: Tensor,
    start: Tensor,
    bins: Tensor,
    count: Tensor,
    size: tuple[int, int],
    gamma: float,
) -> Tensor:
    """Average of each shifted bin (K, C, ph, pw); differentiable."""
    y, x, valid = sample_points(start, bins, count, size)
    if offset.numel():
        extent = bins * torch.tensor(size).to(bins)
        # Offsets are stored as (x, y), unlike those of deformable convolution.
        shift = gamma * offset * extent[:, [1, 0], None, None]
        y, x = y + shift[:, 1, ..., None], x + shift[:, 0, ..., None]
    share = valid / count.prod(dim=1).clamp(min=1)[:, None, None, None]
    out = weighted_sum(input, batch, *(t.flatten(1, 2) for t in (y, x, share)))
    return out.unflatten(2, size)


@extension_op
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the pooled features into ``output``.

    Args:
        input: Shape (N, C, H, W).
        rois: (image, x1, y1, x2, y2) in input-image pixels, shape (K, 5).
        offset: Shift (x, y) of each bin in units of ``gamma`` times the size of
            the RoI, shape (K, 2, pooled_height, pooled_width); empty for none.
        output: Output, shape (K, C, pooled_height, pooled_width).
        pooled_height: Bins in a column.
        pooled_width: Bins in a row.
        spatial_scale: Feature pixels per input-image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per feature pixel.
        gamma: Scale of the offsets.
    """
    size = (pooled_height, pooled_width)
    features, boxes, shifts = upcast(input, finite(rois), offset)
    start, bins, count = bin_geometry(boxes, size, spatial_scale, sampling_ratio, True)
    for part in roi_chunks(_PER_SAMPLE, count, size):
        output[part] = _pool(
            features,
            shifts[part],
            rois[part, 0].long(),
            start[part],
            bins[part],
            count[part],
            size,
            gamma,
        ).to(output)


@extension_op
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients to ``grad_input`` and ``grad_offset``."""
    size = (pooled_height, pooled_width)
    features, boxes, shifts = upcast(input, finite(rois), offset)
    start, bins, count = bin_geometry(boxes, size, spatial_scale, sampling_ratio, True)
    for part in roi_chunks(_PER_SAMPLE, count, size):
        pool = functools.partial(
            _pool,
            batch=rois[part, 0].long(),
            start=start[part],
            bins=bins[part],
            count=count[part],
            size=size,
            gamma=gamma,
        )
        grads = recomputed_grads(pool, (features, shifts[part]), grad_output[part])
        grad_input.add_(grads[0].to(grad_input))
        grad_offset[part] += grads[1].to(grad_offset)
