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
