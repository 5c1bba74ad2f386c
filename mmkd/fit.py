"""What the dry run saw at a tap, in words and numbers: for reports, not for losses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .batch import stride
from .dry_run import DryRun
from .losses.base import DistillLoss, levels


@dataclass(frozen=True)
class Tapped:
    """One side of a term.

    Args:
        path: Of the tapped module.
        kind: Class of the module; empty if it did not run.
        channels: Width of every level.
        strides: Input pixels per cell of every level; empty for vectors.
        facts: What a head's rows mean: ``'classes'`` (their number),
            ``'reg_max'``, ``'priors'`` (per location), ``'strides'`` (of its grid).
    """

    path: str
    kind: str = ''
    channels: list[int] = field(default_factory=list)
    strides: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def tapped(seen: DryRun, path: str) -> Tapped:
    """Describe what a tap yielded in a dry run.

    Args:
        seen: The dry run.
        path: Of the tap.

    Returns:
        The description; without a kind if the tapped module did not run.
    """
    tap = seen.taps.get(path)
    if tap is None:
        return Tapped(path)
    maps: list[Any] = []
    # A head that has no logits of its own, or scores nothing before training.
    with suppress(Exception):
        maps = levels(tap.value)
    return Tapped(
        path,
        type(tap.module).__name__,
        [m.shape[1 if m.dim() == 4 else -1] for m in maps],
        [stride(seen.size, max(m.shape[2:])) for m in maps if m.dim() == 4],
        _facts(tap.value),
    )


def told(name: str, loss: DistillLoss) -> str:
    """A term with its taps and weight.

    Args:
        name: Its log name.
        loss: The loss.

    Example:
        >>> told('loss_hint', DistillLoss('neck', teacher_at='body'))
        "loss_hint = DistillLoss(at='neck', loss_weight=1.0, teacher_at='body')"
    """
    where = '' if loss.teacher_at == loss.at else f', teacher_at={loss.teacher_at!r}'
    where += f', teacher={loss.teacher!r}' if loss.teacher else ''
    off = '' if loss.loss_weight else ' off'
    return f'{name} = {type(loss).__name__}({loss.extra_repr()}{where}){off}'


_READERS: dict[str, Callable[[Any], Any]] = {
    'classes': lambda view: (
        getattr(view, 'num_classes', None)
        or getattr(view.module, 'num_classes', None)
        or view.stages[0].num_classes
    ),
    'reg_max': lambda view: view.bins - 1,
    'priors': lambda view: view.num_priors,
    'strides': lambda view: [max(pair) for pair in view.strides],
}


def _facts(view: Any) -> dict[str, Any]:
    facts = {}
    for name, read in _READERS.items():
        with suppress(Exception):  # a plain tensor, or a head without it
            facts[name] = read(view)
    return {name: value for name, value in facts.items() if value is not None}
