"""RoIAlign (average and maximum) and RoIPool."""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from ._bilinear import sample, scatter
from ._common import chunk_size, extension_op, upcast

_MAX, _AVG = 0, 1


def finite(rois: Tensor) -> Tensor:
    """RoIs with 0 for every NaN or infinity.

    A diverged training hands such boxes over; the kernels would turn them into
    memory addresses, and the crash would hide where it came from.
    """
    return torch.nan_to_num(rois, 0.0, 0.0, 0.0)


def bin_geometry(
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Top-left corner, bin size and samples per bin, each (K, 2) as (y, x)."""
    box = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)
    start, extent = box[:, [1, 0]], box[:, [3, 2]] - box[:, [1, 0]]
    if not aligned:
        extent = extent.clamp(min=1)
    bins = extent / torch.tensor(size).to(extent)
    # A RoI without area has no samples unless their number is fixed.
    count = bins.ceil().clamp(min=0)
    if sampling_ratio > 0:
        count = torch.full_like(count, sampling_ratio)
    return start, bins, count


def sample_points(
    start: Tensor, bins: Tensor, count: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where RoIAlign samples, given its :func:`bin_geometry`.

    Each RoI has its own number of samples per bin; the grid is as fine as the
    largest one asks for, ``valid`` marks the samples that are real.

    Returns:
        Rows, columns and validity; each (K, ph, pw, G) with G samples per bin.
    """
    points, valid = [], []
    for axis in range(2):
        step = torch.arange(int(count[:, axis].max()), device=start.device)
        cell = torch.arange(size[axis], device=start.device)
        fraction = (step + 0.5) / count[:, axis, None].clamp(min=1)
        points.append(
            start[:, axis, None, None]
            + bins[:, axis, None, None] * (cell[:, None] + fraction[:, None])
        )
        valid.append(step < count[:, axis, None])
    shape = (len(start), *size, valid[0].size(1), valid[1].size(1))
    return (
        points[0][:, :, None, :, None].expand(shape).flatten(3),
        points[1][:, None, :, None].expand(shape).flatten(3),
        (valid[0][:, None, None, :, None] & valid[1][:, None, None, None])
        .expand(shape)
        .flatten(3),
    )


def roi_chunks(per_sample: int, count: Tensor, size: tuple[int, int]) -> list[slice]:
    """Slices of the RoIs whose samples, of that many elements, fit into memory."""
    if not len(count):
        return []
    grid = int(count.max(dim=0).values.clamp(min=1).prod())
    step = chunk_size(per_sample * size[0] * size[1] * grid)
    return [slice(lo, lo + step) for lo in range(0, len(count), step)]


def _max_align(
    input: Tensor, batch: Tensor, y: Tensor, x: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest sample of each bin, its row and its column; each (K, C, ph, pw)."""
    values = sample(input, batch, y.flatten(1), x.flatten(1))
    values = values.unflatten(2, y.shape[1:])
    if values.size(-1) == 0:
        best = values.new_zeros(values.shape[:-1])
        return best, best - 1, best - 1
    best, winner = values.masked_fill(~valid[:, None], -torch.inf).max(dim=-1)
    # A degenerate RoI pools 0 and has no winner.
    none = best == -torch.inf
    y, x = (
        t[:, None]
        .expand_as(values)
        .gather(-1, winner[..., None])
        .squeeze(-1)
        .masked_fill(none, -1)
        for t in (y, x)
    )
    return best.masked_fill(none, 0), y, x


@extension_op
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the RoIAlign features into ``output``.

    Args:
        input: Shape (N, C, H, W).
        rois: (image, x1, y1, x2, y2) in input-image pixels, shape (K, 5).
        output: Output, shape (K, C, aligned_height, aligned_width).
        argmax_y: Output for the maximum: row of the winning sample, -1 for
            none, in feature pixels, same shape; not touched for the average.
        argmax_x: The same for its column.
        aligned_height: Bins in a column.
        aligned_width: Bins in a row.
        spatial_scale: Feature pixels per input-image pixel.
        sampling_ratio: Samples per bin and axis; 0 for one per feature pixel.
        pool_mode: 0 for the maximum, 1 for the average.
        aligned: Whether pixel centres are at half-integers.
    """
    size = (aligned_height, aligned_width)
    features, boxes = upcast(input, finite(rois))
    if pool_mode == _AVG:
        output.copy_(
            torch.ops.torchvision.roi_align(
                features, boxes, spatial_scale, *size, sampling_ratio, aligned
            )
        )
        return
    start, bins, count = bin_geometry(
        boxes, size, spatial_scale, sampling_ratio, aligned
    )
    for part in roi_chunks(input.size(1), count, size):
        points = sample_points(start[part], bins[part], count[part], size)
        best, y, x = _max_align(features, rois[part, 0].long(), *points)
        output[part], argmax_y[part], argmax_x[part] = (
            t.to(output.dtype) for t in (best, y, x)
        )


@extension_op
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the features to ``grad_input`` (N, C, H, W)."""
    if pool_mode == _AVG:
        grad, boxes = upcast(grad_output, finite(rois))
        grad_input.add_(
            torch.ops.torchvision._roi_align_backward(
                grad,
                boxes,
                spatial_scale,
                aligned_height,
                aligned_width,
                *grad_input.shape,
                sampling_ratio,
                aligned,
            ).to(grad_input)
        )
        return
    grad, y, x = (t.flatten(2) for t in upcast(grad_output, argmax_y, argmax_x))
    grad = grad.masked_fill(y == -1, 0)
    scatter(grad, rois[:, 0].long(), y, x, grad_input)


def _bin_pixels(
    start: Tensor, extent: Tensor, bins: int, limit: int
) -> tuple[Tensor, Tensor]:
    """First pixel and number of pixels of each bin along one axis, (K, bins)."""
    edge = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    edges = edge * (extent / bins)[:, None] + start[:, None]
    low = edges[:, :-1].floor().clamp(0, limit).long()
    high = edges[:, 1:].ceil().clamp(0, limit).long()
    return low, (high - low).clamp(min=0)


def _window(
    rois: Tensor, size: tuple[int, int], spatial_scale: float, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Flat pixels of every bin (K, ph, pw, window) and which of them count."""
    start = rois[:, 1:3] * spatial_scale
    extent = (rois[:, 3:] + 1) * spatial_scale - start
    pixels, valid = [], []
    for axis, column in enumerate((1, 0)):
        low, count = _bin_pixels(
            start[:, column], extent[:, column], size[axis], shape[axis]
        )
        step = torch.arange(max(int(count.max()), 1), device=rois.device)
        pixels.append((low[..., None] + step).clamp(max=shape[axis] - 1))
        valid.append(step < count[..., None])
    index = pixels[0][:, :, None, :, None] * shape[1] + pixels[1][:, None, :, None]
    inside = valid[0][:, :, None, :, None] & valid[1][:, None, :, None]
    # A RoI without area pools nothing, whatever its bins round to.
    inside = inside & (extent > 0).all(dim=1)[:, None, None, None, None]
    return index.flatten(3), inside.flatten(3)


@extension_op
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the maximum of each bin into ``output``.

    The right and lower edges are inclusive (``x2 + 1`` before scaling) and the
    scaled RoI is not rounded, unlike in torchvision's operator.

    Args:
        input: Shape (N, C, H, W).
        rois: (image, x1, y1, x2, y2) in input-image pixels, shape (K, 5).
        output: Output, shape (K, C, pooled_height, pooled_width); empty bins
            give 0.
        argmax: Output, int32, same shape: flat pixel of the maximum, or -1.
        pooled_height: Bins in a column.
        pooled_width: Bins in a row.
        spatial_scale: Feature pixels per input-image pixel.
    """
    if output.numel() == 0:
        return
    size, shape = (pooled_height, pooled_width), (input.size(2), input.size(3))
    (boxes,) = upcast(finite(rois))
    # Channels last: a window's pixels are then gathered with all of theirs.
    table = input.permute(0, 2, 3, 1).flatten(1, 2)
    # The windows of a RoI together cover about the pixels of the RoI.
    step = chunk_size(input[0].numel())
    for lo in range(0, len(rois), step):
        part = slice(lo, lo + step)
        index, inside = _window(boxes[part], size, spatial_scale, shape)
        values = table[rois[part, 0].long()[:, None, None, None], index]
        values = values.masked_fill(~inside[..., None], -torch.inf)
        best, winner = values.max(dim=3)
        pixel = index.gather(3, winner)
        none = ~inside.any(dim=3)[..., None]
        output[part] = best.masked_fill(none, 0).permute(0, 3, 1, 2)
        argmax[part] = pixel.masked_fill(none, -1).permute(0, 3, 1, 2).to(argmax)


@extension_op
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add each bin's gradient to ``grad_input`` (N, C, H, W) at its maximum."""
    channels, area = grad_input.size(1), grad_input[0, 0].numel()
    channel = torch.arange(channels, device=argmax.device)
    plane = rois[:, 0].long()[:, None] * channels + channel
    pixel = argmax.long().flatten(2)
    (grad,) = upcast(grad_output)
    grad = grad.flatten(2).masked_fill(pixel < 0, 0)
    position = plane[..., None] * area + pixel.clamp(min=0)
    total = torch.zeros_like(grad_input, dtype=grad.dtype).view(-1)
    total.index_add_(0, position.flatten(), grad.flatten())
    grad_input.add_(total.view_as(grad_input).to(grad_input))
