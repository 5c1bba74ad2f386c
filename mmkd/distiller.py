"""The losses, what they train, and the teacher, in one training step."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import is_distributed
from torch import nn

from .batch import Batch
from .dry_run import dry_run
from .losses.base import DistillLoss
from .resume_check import ResumeCheck
from .taps import Tap, record, resolve
from .teacher import Teacher


class Distiller(nn.Module):
    """The losses, what they train, and the teacher.

    Args:
        teacher: The frozen network.
        losses: Log name -> loss.

    Attributes:
        teacher: The :class:`~mmkd.teacher.Teacher`; no child module.
        losses: Log name -> loss, a ``ModuleDict``.
        factors: Log name -> factor of the schedule, 1 without one; 0 switches a
            term off.

    Raises:
        ValueError: If a log name would not be added to the total loss.
    """

    def __init__(self, teacher: Teacher, losses: Mapping[str, DistillLoss]) -> None:
        super().__init__()
        for name in losses:
            if 'loss' not in name:
                raise ValueError(
                    f"losses must have names that contain 'loss' but one is {name!r}: "
                    'mmengine adds only those to the total'
                )
        self.teacher = teacher
        # Any: torch types the items of a ModuleDict as plain modules.
        self.losses: Any = nn.ModuleDict(losses)
        self.factors = dict.fromkeys(losses, 1.0)
        self.resume_check = ResumeCheck()
        self._moves_teacher = True
        self._taps: dict[str, dict[str, type[Tap]]] = dict(student={}, teacher={})
        self._teacher_calls: dict[str, int] = {}

    def prepare(self, student: nn.Module, tap_of: Any) -> None:
        """Resolve the taps, run both networks dry and fit the losses to them.

        Args:
            student: The model that will run; left as it was.
            tap_of: Function from a module to the :class:`Tap` type it needs.

        Raises:
            ValueError: For a wrong path, or sides that do not fit each other.
        """
        for loss in self.losses.values():
            for side, model, path in (
                ('student', student, loss.at),
                ('teacher', self.teacher.model, loss.teacher_at),
            ):
                self._taps[side][path] = tap_of(resolve(model, path))
        live = {name: loss for name, loss in self.losses.items() if loss.loss_weight}
        for name in self.losses.keys() - live.keys():
            # Off means off: the optimizer and gradient clipping see nothing of it.
            self.losses[name].requires_grad_(False)
        if not live:
            return
        ours = dry_run(student, self._taps['student'])
        theirs = dry_run(self.teacher.model, self._taps['teacher'])
        device = next(student.parameters(), torch.zeros(())).device
        for tap in theirs.taps.values():
            tap.to(device)
        for name, loss in live.items():
            s, t = ours.taps.get(loss.at), theirs.taps.get(loss.teacher_at)
            try:
                loss.prepare(s.value if s else None, t.value if t else None)
            except (ValueError, TypeError) as error:
                reasons = [r for r in (ours.failure, theirs.failure) if r]
                because = f' ({"; ".join(reasons)})' if reasons else ''
                raise type(error)(f'{name}: {error}{because}') from error
        self._teacher_calls = {path: tap.count for path, tap in theirs.taps.items()}

    @property
    def active(self) -> list[str]:
        """Names of the terms that are computed in the next step."""
        return [
            name
            for name, loss in self.losses.items()
            if loss.loss_weight * self.factors[name] > 0
        ]

    def step(
        self, student: nn.Module, run_student: Any, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        """One training step: the student's own losses and those of the teacher.

        Args:
            student: The model that this is a child of.
            run_student: Its stock function that returns its losses.
            args: Its arguments: inputs, data samples.
            kwargs: Its keyword arguments.

        Returns:
            Log name -> loss, the stock ones unchanged.

        Raises:
            ValueError: If a term has the name of a stock loss.
        """
        self.resume_check.first_step(self)
        active = self.active
        if active:
            losses = self._distilled_step(active, student, run_student, args, kwargs)
        else:
            losses = run_student(*args, **kwargs)
        for name, loss in self.losses.items():
            if name not in losses:
                losses[name] = _silent(loss, student)
        return losses

    def _distilled_step(
        self,
        active: list[str],
        student: nn.Module,
        run_student: Any,
        args: tuple,
        kwargs: dict,
    ) -> dict[str, Any]:
        batch = _batch_of(run_student, args, kwargs)
        ours = {self.losses[name].at for name in active}
        theirs = {self.losses[name].teacher_at for name in active}
        # The teacher goes first: its activations are freed before the student's
        # are held for the backward pass.
        teacher_taps = self.teacher.run(
            batch,
            {path: self._taps['teacher'][path] for path in theirs},
            {path: self._teacher_calls.get(path, 1 << 30) for path in theirs},
        )
        student_types = {path: self._taps['student'][path] for path in ours}
        with record(student, student_types) as student_taps:
            losses = run_student(*args, **kwargs)
        clash = losses.keys() & self.losses.keys()
        if clash:
            raise ValueError(
                f'losses must not have names of stock losses but {sorted(clash)} do'
            )
        for name in active:
            loss = self.losses[name]
            s, t = student_taps[loss.at], teacher_taps[loss.teacher_at]
            _check_counts(s, t)
            losses[name] = self.factors[name] * loss(s.value, t.value, batch)
        return losses

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        if self._moves_teacher:
            self.teacher.apply(fn)
        return self

    def __deepcopy__(self, memo: dict) -> Distiller:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        # EMA may keep its copy elsewhere; the teacher stays with the original.
        twin._moves_teacher = False
        return twin

    def summary(self) -> str:
        """One line: the teacher, and every term with its taps and weight."""
        terms = [
            f'{name} = {type(loss).__name__}({loss.extra_repr()}'
            + (
                ')'
                if loss.teacher_at == loss.at
                else f', teacher_at={loss.teacher_at!r})'
            )
            + ('' if loss.loss_weight else ' off')
            for name, loss in self.losses.items()
        ]
        return f'teacher {self.teacher!r}; {"; ".join(terms) or "no losses"}'


def _batch_of(function: Any, args: tuple, kwargs: dict) -> Batch:
    # Keywords come in the order of the data set's dict, not of the signature.
    bound = inspect.signature(function).bind(*args, **kwargs)
    values = [*bound.args, *bound.kwargs.values()]
    if not values:
        raise ValueError('loss() must be given the inputs')
    return Batch(values[0], values[1] if len(values) > 1 else None)


def _check_counts(student: Tap, teacher: Tap) -> None:
    if not student.count:
        raise RuntimeError(f'{student.path!r} does not run while the student trains')
    if student.count != teacher.count:
        raise RuntimeError(
            f'{student.path!r} ran {student.count} times in the student but '
            f'{teacher.path!r} {teacher.count} times in the teacher'
        )


def _silent(loss: nn.Module, student: nn.Module) -> torch.Tensor:
    """Zero for a term that is off, reaching its weights where DDP waits for them."""
    weights = [p for p in loss.parameters() if p.requires_grad]
    if weights and is_distributed():
        return sum(p.float().sum() for p in weights) * 0  # type: ignore[return-value]
    return next(student.parameters()).new_zeros(())
