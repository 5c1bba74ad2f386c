"""Maps of a dense head as one row per prior."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(maps: list[Tensor], width: int) -> Tensor:
    """Rows of maps, level by level, image by image: (rows, width).

    Args:
        maps: Shape (N, A * width, H, W) per level.
        width: Channels of a prior.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, width) for m in maps])


def as_maps(rows: Tensor, maps: list[Tensor], width: int) -> list[Tensor]:
    """Values of rows where maps have them: (N, A, 1, H, W) per level.

    Args:
        rows: One value per row, in the order of :func:`rows_of`: (rows,).
        maps: Shape (N, A * width, H, W) per level.
        width: Channels of a prior.

    Example:
        >>> maps = [torch.rand(2, 6, 4, 5), torch.rand(2, 6, 2, 3)]
        >>> [value.shape[1:] for value in as_maps(torch.rand(156), maps, 2)]
        [torch.Size([3, 1, 4, 5]), torch.Size([3, 1, 2, 3])]
    """
    placed = []
    for m, part in zip(maps, rows.split([m.numel() // width for m in maps])):
        images, channels, height, columns = m.shape
        part = part.view(images, height, columns, channels // width)
        placed.append(part.permute(0, 3, 1, 2).unsqueeze(2))
    return placed


def picked_rows(maps: list[Tensor], width: int, index: Tensor) -> Tensor:
    """``rows_of(maps, width)[index]`` for ascending rows.

    Without a copy of all rows: at COCO's size they are a hundred megabytes, and as
    many again in the backward pass.
    """
    rows = [m.numel() // width for m in maps]
    if len(index) == sum(rows):
        return rows_of(maps, width)
    counts = index.new_tensor(rows)
    ends = counts.cumsum(0)
    lasts = torch.searchsorted(index, ends).tolist()
    picked = []
    for m, first, start, last in zip(maps, ends - counts, [0, *lasts], lasts):
        place = index[start:last] - first
        (height, columns), priors = m.shape[2:], m.shape[1] // width
        cell, prior = place // priors, place % priors
        image, cell = cell // (height * columns), cell % (height * columns)
        table = m.unflatten(1, (priors, width))
        picked.append(table[image, prior, :, cell // columns, cell % columns])
    return torch.cat(picked)
