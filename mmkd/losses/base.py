"""What every distillation loss shares: where it taps and how it is weighted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..batch import Batch
from ..taps import HeadView, Tap


class DistillLoss(nn.Module):
    """Base class of the registered losses.

    A subclass implements :meth:`distance` on what its taps yield; weighting
    and the interface to the distiller live here.

    Args:
        at: Dotted path of the tapped sub-module in the student, such as
            ``'neck'`` or ``'backbone.layer4'``.
        loss_weight: Factor of the term; must be finite and >= 0. A term that
            is built with weight 0 is off: it is reported as 0, trains nothing
            and needs no teacher pass.
        teacher_at: Path in the teacher; ``at`` if not given.

    Raises:
        TypeError: If a path is not a string or the weight is not a number.
        ValueError: If a path is empty or the weight is negative or not finite.
    """

    #: Further paths whose taps :meth:`distance` reads from ``batch.student`` and
    #: ``batch.teacher``.
    also_at: tuple[str, ...] = ()
    teacher_also_at: tuple[str, ...] = ()
    #: How some of these paths are tapped, where not as usual.
    tap_types: Mapping[str, type[Tap]] = {}

    #: Fields of the teacher's head view that :meth:`.DistillLoss.distance` reads;
    #: ``None`` for whatever there is. What computes other fields alone (the other
    #: tower of a head) is left out of the teacher's pass.
    #: :func:`~mmkd.losses.base.levels` reads ``'logits'``.
    reads: tuple[str, ...] | None = None

    #: Which of several teachers it listens to: what a config says by ``teacher='a'``.
    teacher: str = ''

    #: What the student's classes must be called, if the teacher knows names.
    class_names: Any = None

    def __init__(
        self, at: str, loss_weight: float = 1.0, teacher_at: str | None = None
    ) -> None:
        super().__init__()
        for name, path in (('at', at), ('teacher_at', teacher_at or at)):
            if not isinstance(path, str):
                raise TypeError(
                    f'{name} must be a dotted path such as "neck" but is {path!r}'
                )
            if not path:
                raise ValueError(f'{name} must name a sub-module but is empty')
        if not isinstance(loss_weight, (int, float)):
            raise TypeError(f'loss_weight must be a number but is {loss_weight!r}')
        if not (math.isfinite(loss_weight) and loss_weight >= 0):
            raise ValueError(
                f'loss_weight must be finite and >= 0 but is {loss_weight}'
            )
        self.at = at
        self.teacher_at = teacher_at or at
        self.loss_weight = float(loss_weight)

    @property
    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What it taps in the student and in the teacher, ``at`` first.

        Of several teachers a path starts with the name of the one that it listens to.
        """
        theirs = (self.teacher_at, *self.teacher_also_at)
        return (self.at, *self.also_at), tuple(self._prefix + p for p in theirs)

    def of_its_teacher(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some values by path that its own teacher has, by the path in it."""
        start = self._prefix
        return {
            p.removeprefix(start): x for p, x in values.items() if p.startswith(start)
        }

    def tap_type(self, path: str) -> type[Tap] | None:
        """How one of :attr:`paths` is tapped, where not as usual."""
        return self.tap_types.get(
            path, self.tap_types.get(path.removeprefix(self._prefix))
        )

    @property
    def _prefix(self) -> str:
        return f'{self.teacher}.' if self.teacher else ''

    def prepare(self, student: Any, teacher: Any) -> None:
        """Check and fit the loss to what its taps yield, when the model is built.

        Args:
            student: What the student's tap yielded in a dry run on a small
                synthetic batch, or ``None`` where no dry run was possible.
            teacher: The same of the teacher.

        Raises:
            ValueError: If the two do not fit each other.
        """

    def prepare_also(self, student: dict[str, Any], teacher: dict[str, Any]) -> None:
        """The same for the further paths: path -> what its tap yielded."""

    def places(self, student: Any, batch: Batch) -> Tensor | None:
        """Where :meth:`.DistillLoss.distance` reads the teacher, for a cache of it.

        Args:
            student: What the student's tap yielded in this step.
            batch: The batch.

        Returns:
            Rows of a dense head's view, ascending, (n,), that depend on the labels
            alone and not on what the student predicts; ``None`` for whole maps of
            logits.

        Raises:
            ValueError: If what it reads cannot be stored.
        """
        raise ValueError(
            f'{type(self).__name__} reads the teacher everywhere, which is too much '
            'to be stored; use a live teacher for it'
        )

    def before_student(self, tap: Any, factor: float) -> None:
        """Called in every step in which the term is on, before the student runs.

        Args:
            tap: The student's tap, which has recorded nothing yet.
            factor: Factor of the schedule in (0, 1].
        """

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        """Unweighted value of the loss, a scalar; defined by the subclass."""
        raise NotImplementedError(f'{type(self).__name__} must define distance()')

    def forward(self, student: Any, teacher: Any, batch: Batch | None = None) -> Tensor:
        """Weighted value of the loss.

        Args:
            student: What the student's tap yielded: a tensor, a tuple of
                tensors (one per level), or a head view.
            teacher: What the teacher's tap yielded. Never receives gradients.
            batch: The batch both were computed from; masks padded areas.

        Returns:
            Scalar tensor.
        """
        return self.loss_weight * self.distance(student, teacher, batch)

    def extra_repr(self) -> str:
        return f'at={self.at!r}, loss_weight={self.loss_weight}'


def levels(value: Any) -> list[Tensor]:
    """The tensors of a tap's value in order, one per level.

    Args:
        value: A tensor, or any nesting of tuples, lists and dicts of tensors; a
            head view stands for its class logits. Anything else in it (``None``,
            strings, numbers) is passed over.

    Returns:
        The floating point tensors.

    Raises:
        TypeError: If there is none.

    Example:
        >>> import torch
        >>> [t.shape[0] for t in levels((torch.zeros(1), [torch.zeros(2), None]))]
        [1, 2]
    """
    found = list(_tensors(value))
    if not found:
        raise TypeError(
            'a tap must yield a floating point tensor or a tuple of them but '
            f'yielded {type(value).__name__}'
        )
    return found


def paired_levels(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    """Levels of student and teacher side by side.

    Raises:
        ValueError: If the numbers of levels differ.
    """
    ours, theirs = levels(student), levels(teacher)
    if len(ours) != len(theirs):
        raise ValueError(
            'student and teacher must yield the same number of levels but yield '
            f'{len(ours)} {_shapes(ours)} and {len(theirs)} {_shapes(theirs)}'
        )
    return list(zip(ours, theirs))


def _shapes(tensors: list[Tensor]) -> str:
    return ', '.join(str(tuple(tensor.shape)) for tensor in tensors)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, HeadView):
        yield from value.logits
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
