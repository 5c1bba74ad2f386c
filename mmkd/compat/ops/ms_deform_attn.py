"""Multi-scale deformable attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ._common import extension_op, recomputed_grads, upcast


def _attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Attention of one level; differentiable.

    Args:
        value: Map of the level, shape (N, H, W, heads, dim).
        locations: Sampling points (x, y) in [0, 1], shape (N, Q, heads, P, 2).
        weights: Attention weights, shape (N, Q, heads, P).

    Returns:
        Shape (N, Q, heads * dim).
    """
    num, queries, heads, _, _ = locations.shape
    maps = value.permute(0, 3, 4, 1, 2).flatten(0, 1)
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    sampled = F.grid_sample(
        maps, grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )
    weighted = sampled * weights.transpose(1, 2).flatten(0, 1)[:, None]
    return weighted.sum(-1).view(num, -1, queries).transpose(1, 2)


def _levels(
    spatial_shapes: Tensor, start_index: Tensor
) -> Iterator[tuple[int, slice, tuple[int, int]]]:
    """(level, its slice of the keys, its (height, width))."""
    starts = start_index.tolist()
    for level, (height, width) in enumerate(spatial_shapes.tolist()):
        keys = slice(starts[level], starts[level] + height * width)
        yield level, keys, (height, width)


@extension_op
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sum of bilinear samples from all levels.

    Args:
        value: Shape (N, keys, heads, dim), the levels one after the other.
        value_spatial_shapes: (height, width) of each level, int64, (L, 2).
        value_level_start_index: First key of each level, int64, (L, ).
        sampling_locations: Points (x, y), 0..1 over the map's outer edges, shape
            (N, queries, heads, L, P, 2); outside the map lie zeros.
        attention_weights: Shape (N, queries, heads, L, P).
        im2col_step: Batch step of the compiled operator; without influence.

    Returns:
        Shape (N, queries, heads * dim), in the dtype of ``value``.
    """
    values, points, weights = upcast(value, sampling_locations, attention_weights)
    output = values.new_zeros(
        value.size(0), points.size(1), value.size(2) * value.size(3)
    )
    # Level by level: all samples at once would be the peak of a training step.
    for level, keys, shape in _levels(value_spatial_shapes, value_level_start_index):
        output += _attend(
            values[:, keys].unflatten(1, shape),
            points[:, :, :, level],
            weights[:, :, :, level],
        )
    return output.to(value.dtype)


@extension_op
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the three gradients to the given tensors."""
    values, points, weights = upcast(value, sampling_locations, attention_weights)
    for level, keys, shape in _levels(value_spatial_shapes, value_level_start_index):
        inputs = (
            values[:, keys].unflatten(1, shape),
            points[:, :, :, level],
            weights[:, :, :, level],
        )
        grads = recomputed_grads(_attend, inputs, grad_output)
        grad_value[:, keys] += grads[0].flatten(1, 2).to(grad_value)
        grad_sampling_loc[:, :, :, level] += grads[1].to(grad_sampling_loc)
        grad_attn_weight[:, :, :, level] += grads[2].to(grad_attn_weight)
