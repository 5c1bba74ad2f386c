"""The losses, what they train, and the teacher, in one training step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .base_teacher import BaseTeacher
from .batch import batch_of
from .dry_run import dry_run
from .fit import Tapped, tapped, told
from .inheritance import Inheritance
from .losses.base import DistillLoss
from .paramwise import spare
from .problems import Problems
from .resume_check import ResumeCheck
from .taps import Tap, record, resolve
from .terms import check_counts, prepare_loss, silent


class Distiller(nn.Module):
    """The losses, what they train, and the teacher.

    Args:
        teacher: The frozen network.
        losses: Log name -> loss.
        inheritance: What the student starts with; nothing if not given.

    Attributes:
        teacher: The :class:`~mmkd.base_teacher.BaseTeacher`; no child module.
        losses: Log name -> loss, a ``ModuleDict``.
        factors: Log name -> factor of the schedule, 1 without one; 0 switches a
            term off.
        fit: Log name -> what the dry run saw of its taps in student and teacher.

    Raises:
        ValueError: If a log name would not be added to the total loss.
    """

    def __init__(
        self,
        teacher: BaseTeacher,
        losses: Mapping[str, DistillLoss],
        inheritance: Inheritance | None = None,
    ) -> None:
        super().__init__()
        for name in losses:
            if 'loss' not in name:
                raise ValueError(
                    f"losses must have names that contain 'loss' but one is {name!r}: "
                    'mmengine adds only those to the total'
                )
            if '.' in name:
                raise ValueError(f'losses must have names without dots, not {name!r}')
        self.teacher = teacher
        self.inheritance = inheritance or Inheritance(nn.Module(), teacher, ())
        self.losses: Any = nn.ModuleDict(losses)  # plain modules to torch
        self.factors = dict.fromkeys(losses, 1.0)
        self.fit: dict[str, tuple[Tapped, ...]] = {}
        self.resume_check = ResumeCheck()
        self._moves_teacher = True
        self._is_stepping = False
        self._taps: dict[str, dict[str, type[Tap]]] = dict(student={}, teacher={})
        self._teacher_calls: dict[str, int] = {}

    def prepare(
        self, student: nn.Module, tap_of: Any, problems: Problems | None = None
    ) -> None:
        """Resolve the taps, run both networks dry and fit the losses to them.

        Args:
            student: The model that will run; left as it was.
            tap_of: Function from a module to the :class:`~mmkd.taps.Tap` type it needs.
            problems: Where to collect what does not fit; raised here if not given.

        Raises:
            ValueError: For a wrong path, or sides that do not fit each other.
        """
        found = Problems() if problems is None else problems
        # Heads keep what computes a stock loss under its name, mmseg's with a prefix.
        stock = {
            name
            for path, module in student.named_modules()
            if path.partition('.')[0] not in ('decode_head', 'auxiliary_head')
            for name in module._modules
        }
        for name, loss in self.losses.items():
            with found.caught(name):
                if name in stock:
                    raise ValueError('a stock loss has this name; choose another')
                self.teacher.check_term(loss)
            types: Any = (
                lambda path: tap_of(resolve(student, path)),
                lambda path: self.teacher.tap_type(path, tap_of),
            )
            if any(problem.where == name for problem in found.found):
                continue  # it is not known whose paths they are
            for side, type_of, paths in zip(self._taps, types, loss.paths):
                with found.caught(name):
                    for path in paths:
                        kind = loss.tap_type(path) or type_of(path)
                        known = [self._taps[side].setdefault(path, kind)]
                        if self.teacher.recorded_in_student({path: kind}):
                            known += [t[path] for t in self._taps.values() if path in t]
                        if any(other != kind for other in known):
                            raise ValueError(f'{path!r} is tapped in two ways')
        wrong = {problem.where for problem in found.found}
        live = {
            name: loss
            for name, loss in self.losses.items()
            if loss.loss_weight and name not in wrong
        }
        for loss in self.losses.values():
            # Off means off: the optimizer and gradient clipping see nothing of it.
            if not loss.loss_weight:
                loss.requires_grad_(False)
        if live:
            self._prepare_live(student, live, found)
        if problems is None:
            found.raise_all()

    def _prepare_live(
        self, student: nn.Module, live: Mapping[str, Any], problems: Problems
    ) -> None:
        ours = dry_run(student, self._taps['student'])
        # At one size: maps of two are compared.
        size = 0 if ours.failure else ours.size
        theirs = self.teacher.dry_run(self._taps['teacher'], size)
        if not theirs.failure and ours.size < theirs.size:
            ours = dry_run(student, self._taps['student'], theirs.size)
        device = next(student.parameters(), torch.zeros(())).device
        for tap in theirs.taps.values():
            tap.to(device)
        for name, loss in live.items():
            sides = zip((ours, theirs), (paths[0] for paths in loss.paths))
            self.fit[name] = tuple(tapped(seen, path) for seen, path in sides)
            with problems.caught(name):
                prepare_loss(name, loss, ours, theirs)
        self._teacher_calls = {path: tap.count for path, tap in theirs.taps.items()}
        if not theirs.failure and not problems.found:
            self.teacher.economize(theirs, self._reads(live))

    def _reads(self, names: Iterable[str]) -> dict[str, frozenset[str] | None]:
        """Path in the teacher -> fields that some terms read, ``None`` for all."""
        found: dict[str, frozenset[str] | None] = {}
        for name in names:
            loss = self.losses[name]
            for path in loss.paths[1]:
                fields = loss.reads if path == loss.paths[1][0] else None
                known = found.get(path, frozenset())
                both = None in (fields, known)
                found[path] = None if both else known.union(fields)  # type: ignore
        return found

    def check_classes(self, names: Sequence[str] | None) -> None:
        """Raise ``ValueError`` if the data has other classes than the teacher.

        Args:
            names: Those of the training data in order, if known.
        """
        wrong: dict[tuple, list[str]] = {}
        for term, loss in self.losses.items():
            theirs = tuple(loss.class_names or ())
            if names and theirs and tuple(names) != theirs and loss.loss_weight:
                wrong.setdefault(theirs, []).append(term)
        if wrong:
            theirs, terms = next(iter(wrong.items()))
            raise ValueError(
                f'{", ".join(terms)}: student and teacher must have the same classes '
                f'in the same order but the data has {list(names or ())} and the '
                f'teacher {list(theirs)}; where only names differ, or for a teacher of '
                'other classes, set teacher_classes if the loss has it'
            )

    @property
    def active(self) -> list[str]:
        """Names of the terms that are computed in the next step."""
        return [
            name
            for name, loss in self.losses.items()
            if loss.loss_weight * self.factors[name] > 0
        ]

    def forget_idle_gradients(self) -> None:
        """Let the optimizer pass over what the terms that are off have trained.

        DDP leaves zeros there, with which weight decay and momentum would move it.
        """
        for name in self.losses.keys() - set(self.active):
            for p in self.losses[name].parameters():
                if p.grad is not None and not p.grad.any():
                    p.grad = None

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
            Log name -> loss, the stock ones unchanged but for what a loss with
            ``mu`` takes from a head's own classification loss.

        Raises:
            ValueError: If a term has the name of a stock loss.
        """
        if self._is_stepping:  # `loss` called by `forward`
            return run_student(*args, **kwargs)
        self.resume_check.first_step(
            'the state of the distiller (adapters, critics, an average of the student)',
            lambda: bool(self.state_dict() or self.teacher.state_dict()),
        )
        if student.training and torch.is_grad_enabled():
            self.teacher.begin(student, is_copy=not self._moves_teacher)
        active = self.active
        self._is_stepping = True
        try:
            if active:
                losses = self._distilled_step(
                    active, student, run_student, args, kwargs
                )
            else:
                losses = run_student(*args, **kwargs)
        finally:
            self._is_stepping = False
        for name, loss in self.losses.items():
            if name not in losses:
                losses[name] = silent(loss, student)
        return losses

    def _distilled_step(
        self,
        active: list[str],
        student: nn.Module,
        run_student: Any,
        args: tuple,
        kwargs: dict,
    ) -> dict[str, Any]:
        batch = batch_of(run_student, args, kwargs)
        ours: set[str] = set()
        theirs: set[str] = set()
        for name in active:
            for paths, wanted in zip(self.losses[name].paths, (ours, theirs)):
                wanted.update(paths)
        # The teacher goes first: its activations are freed before the student's
        # are held for the backward pass.
        their_types = {path: self._taps['teacher'][path] for path in sorted(theirs)}
        teacher_taps = self.teacher.run(
            batch,
            their_types,
            {path: self._teacher_calls.get(path, 1 << 30) for path in theirs},
            self._reads(active),
        )
        student_types = {path: self._taps['student'][path] for path in ours}
        student_types.update(self.teacher.recorded_in_student(their_types))
        with record(student, student_types) as student_taps:
            for name in active:
                loss = self.losses[name]
                loss.before_student(student_taps[loss.at], self.factors[name])
            losses = run_student(*args, **kwargs)
        clash = losses.keys() & self.losses.keys()
        if clash:
            raise ValueError(
                f'losses must not have names of stock losses but {sorted(clash)} do'
            )
        teacher_taps = self.teacher.completed(teacher_taps, student_taps)
        batch.student = {path: tap.value for path, tap in student_taps.items()}
        their_values = {path: tap.value for path, tap in teacher_taps.items()}
        for name in active:
            loss = self.losses[name]
            at = loss.paths[1][0]
            check_counts(student_taps[loss.at], teacher_taps[at])
            with torch.no_grad(), self.teacher.precision(batch.inputs, at):
                teacher_taps[at].follow(student_taps[loss.at])
            batch.teacher = loss.of_its_teacher(their_values)
            s, t = batch.student[loss.at], batch.teacher[loss.teacher_at]
            losses[name] = self.factors[name] * loss(s, t, batch)
            # mmengine adds up whatever has 'loss' in its name.
            prefix = name.replace('loss', '').strip('_')
            losses.update({f'{prefix}_{k}': v for k, v in batch.logs.items()})
            batch.logs = {}
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
        terms = [told(name, loss) for name, loss in self.losses.items()]
        return f'teacher {self.teacher!r}; {"; ".join(terms) or "no losses"}'


# Whatever optimizer is built for a model with a distiller in it.
spare(Distiller)
