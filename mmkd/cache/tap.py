"""A tap on a teacher that is not there: what the cache holds of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..losses.base import levels
from ..taps import HeadView, Tap
from .shards import Entry

#: What losses ask of a head's view when they are prepared.
_FACTS = (
    'name',
    'strides',
    'num_priors',
    'sizes',
    'num_classes',
    'num_logits',
    'bins',
    'bin_sizes',
    'origins',
)
#: Of them those that are lists of pairs, which JSON knows no tuples for.
_PAIRS = ('strides', 'sizes')
#: Field that stands for maps of logits.
MAPS = 'maps'
#: Field of a head's view -> the method that yields some rows of it.
_ROWS = dict(distributions='edges_of', logits='classes_of')


def facts_of(tap: Tap) -> dict[str, Any]:
    """What a tap's view knows without a batch, for :class:`CachedTap`.

    Args:
        tap: Of a dry run of the teacher.
    """
    found: dict[str, Any] = dict(
        kind=type(tap.module).__name__, count=tap.count, class_names=tap.class_names
    )
    view = tap.value
    for name in _FACTS if isinstance(view, HeadView) else ():
        with suppress(Exception):  # heads that are no dense heads lack most of them
            found[name] = getattr(view, name)
    with suppress(Exception):
        found['maps'] = [list(level.shape) for level in levels(view)]
    return found


def taken(tap: Tap, field: str, rows: Tensor | None) -> Tensor:
    """What is stored of a live teacher's tap, in half precision.

    Args:
        tap: Of the teacher, after its pass on one image.
        field: ``'distributions'``, ``'logits'`` or :data:`MAPS`.
        rows: Rows of a dense head, ascending.

    Returns:
        On the CPU: (n, ...) of rows, one flat run of maps.

    Raises:
        ValueError: If the teacher says NaN or infinity.
    """
    if rows is None:
        values = torch.cat([level.reshape(-1) for level in levels(tap.value)])
    else:
        values = getattr(tap.value, _ROWS[field])(rows)
    if not values.isfinite().all():
        raise ValueError(
            f'the {field} of {tap.path!r} in the teacher hold NaN or infinity, which '
            'teach nothing; look at its weights'
        )
    limit = torch.finfo(torch.float16).max
    return values.float().clamp(-limit, limit).half().cpu()


#: One in so many rows may be missing.
TOLERATED = 100
_told: list[str] = []


@dataclass
class _Placed:
    """Rows of a batch, ascending, and what the teacher says there."""

    rows: Tensor
    values: Tensor


class CachedTap(HeadView):
    """What the cache holds of one tap in a batch; finished by :meth:`follow`.

    Losses find the fields and methods of a live teacher's view in it, as far as they
    were stored; of plain modules it stands for the maps of logits.

    Args:
        path: Of the tap in the teacher.
        facts: See :func:`facts_of`.
        records: Field -> its entry of every image of the batch; empty in a dry run.
    """

    def __init__(
        self,
        path: str,
        facts: Mapping[str, Any],
        records: Mapping[str, Sequence[Entry]] | None = None,
    ) -> None:
        self.facts = dict(facts)
        # Messages and reports call a tap by the class of its module.
        super().__init__(path, type(self.facts['kind'], (), {})())
        self._records = records or {}
        self._placed: dict[str, _Placed] = {}
        self._maps = [torch.zeros(shape) for shape in self.facts.get('maps', ())]
        self._follows: Tap | None = None

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get('facts', {})
        if name not in facts:
            raise AttributeError(
                f'the teacher is cached, and the cache holds no {name} of it'
            )
        value = facts[name]
        return [tuple(pair) for pair in value] if name in _PAIRS else value

    @property
    def class_names(self) -> Sequence[str] | None:
        return self.facts['class_names']

    @property
    def count(self) -> int:
        return self.facts['count']

    @property
    def logits(self) -> list[Tensor]:
        """Maps of logits, (N, C, H, W) per level."""
        if self._records and MAPS not in self._records:
            raise AttributeError('the teacher is cached, and the cache holds no maps')
        return self._maps

    def to(self, device: torch.device) -> None:
        """Nothing: what is read goes where the student's tensors are."""

    def edges_of(self, index: Tensor) -> Tensor:
        """Logits of the edges' bins of some rows, (n, 4, bins)."""
        return self._of('distributions', index)

    def classes_of(self, index: Tensor) -> Tensor:
        """Class logits of some rows, (n, C)."""
        return self._of('logits', index)

    def follow(self, student: Tap) -> None:
        """Bring what was stored to the grid of the batch.

        Args:
            student: The student's tap, complete.
        """
        if self._follows is student:
            return
        for field, entries in self._records.items():
            if field == MAPS:
                self._maps = _batched(
                    entries, levels(student.value), self.facts['alike']
                )
            else:
                like = student.value.logits
                priors = self.facts['num_priors']
                self._placed[field] = _place(entries, like, priors)
        self._follows = student

    def _of(self, field: str, index: Tensor) -> Tensor:
        placed = self._placed[field]
        at = torch.searchsorted(placed.rows, index).clamp(max=len(placed.rows) - 1)
        if not len(placed.rows):
            at = index.new_zeros(0)
        elif torch.equal(placed.rows[at], index):
            return placed.values[at]
        lost = torch.ones_like(index, dtype=torch.bool)
        lost[: len(at)] = placed.rows[at] != index
        values = placed.values.new_zeros(len(index), *placed.values.shape[1:])
        values[~lost] = placed.values[at[~lost[: len(at)]]]
        values[lost] = self._students(field, index, lost)
        return values

    def _students(self, field: str, index: Tensor, lost: Tensor) -> Tensor:
        """What the student says where the cache says nothing: no term sees a gap.

        Rounding may decide a tie between two priors otherwise on another device.
        """
        count = int(lost.sum())
        if count > 1 + len(index) // TOLERATED:
            raise ValueError(
                f'the cache holds {field} of {self.path!r} at other places than this '
                f'batch needs ({count} of {len(index)} rows are missing): boxes or '
                'images changed under it, or it was made on another kind of device; '
                'build it anew with tools/cache_teacher.py'
            )
        if not _told:
            _told.append(self.path)
            print_log(
                f'mmkd: the cache lacks {count} of {len(index)} rows of {self.path!r}, '
                'as rounding differs from that of the device it was made on; they '
                'count as learnt, and more than a few would be an error',
                logger='current',
                level=logging.WARNING,
            )
        view = self._follows.value  # type: ignore[union-attr]
        values = getattr(view, _ROWS[field])(index[lost]).detach()
        return values.to(torch.float16)


def _place(entries: Sequence[Entry], maps: list[Tensor], priors: list[int]) -> _Placed:
    """Rows of single views as rows of a batch.

    Images lie in the upper left corner, so a prior keeps its level, row and column.
    """
    # All images at once: one by one they took longer than the losses.
    count = torch.tensor(priors)
    grids = torch.stack([entry.shapes for entry in entries]).long()
    sizes = grids.prod(2) * count
    ends = sizes.cumsum(1)
    rows = [entry.rows for entry in entries if entry.rows is not None]
    image = torch.arange(len(rows))
    far = int(ends.max()) + 1  # from one image's rows to the next one's
    bounds = (ends + far * image[:, None]).flatten()
    image = image.repeat_interleave(torch.tensor([len(run) for run in rows]))
    index = torch.cat(rows).long()
    slot = torch.searchsorted(bounds, index + far * image, right=True)
    level = slot - len(priors) * image
    place = index - (ends - sizes).flatten()[slot]
    cell, prior = place // count[level], place % count[level]
    width = grids.flatten(0, 1)[slot, 1]
    height_there, width_there = torch.tensor([m.shape[2:] for m in maps])[level].T
    starts = torch.tensor([m[:, 0].numel() for m in maps]) * count
    starts = starts.cumsum(0) - starts
    cell = (image * height_there + cell // width) * width_there + cell % width
    joined = starts[level] + cell * count[level] + prior
    order = joined.argsort()
    device = maps[0].device
    values = torch.cat([entry.values for entry in entries])[order]
    return _Placed(_to(joined[order], device), _to(values, device))


def _batched(
    entries: Sequence[Entry], student: list[Tensor], alike: bool
) -> list[Tensor]:
    """Maps of single views side by side, zeros where the batch is padded."""
    shapes = [entry.shapes.tolist() for entry in entries]
    found = []
    for level, like in enumerate(student):
        sizes = [shape[level] for shape in shapes]
        size = [sizes[0][0], *like.shape[2:]] if alike else sizes[0]
        if not alike and any(other != size for other in sizes):
            raise ValueError(
                "the teacher's maps have other sizes than the student's and the images "
                'of a batch differ in size, which a cache cannot bring together; use a '
                'live teacher, or images of one size'
            )
        found.append(entries[0].values.new_zeros(len(entries), *size))
    for image, entry in enumerate(entries):
        first = 0
        for level, shape in enumerate(shapes[image]):
            last = first + torch.Size(shape).numel()
            box = tuple(slice(side) for side in shape)
            found[level][image][box] = entry.values[first:last].view(shape)
            first = last
    return [_to(level, like.device) for level, like in zip(found, student)]


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=device.type != 'cpu')
