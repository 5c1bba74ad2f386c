"""A student with a teacher that is still an instance of the student's class."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from .batch import Batch
from .dry_run import dry_run
from .losses.base import DistillLoss
from .registry import MODELS
from .resume_check import ResumeCheck
from .rng import preserved_rng
from .taps import Tap, record, resolve
from .teacher import Teacher, build_teacher, move


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
        theirs = dry_run(
            self.teacher.model, self._taps['teacher'], device=self.teacher.device
        )
        for name, loss in live.items():
            s, t = ours.taps.get(loss.at), theirs.taps.get(loss.teacher_at)
            try:
                loss.prepare(
                    s.value if s else None,
                    move(t.value, torch.device('cpu')) if t else None,
                )
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
        batch = _batch_of(args, kwargs)
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
        device = next(student.parameters()).device
        for name in active:
            loss = self.losses[name]
            s, t = student_taps[loss.at], teacher_taps[loss.teacher_at]
            _check_counts(s, t)
            value = loss(s.value, move(t.value, self.teacher.device and device), batch)
            losses[name] = self.factors[name] * value
        return losses

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        self.teacher.apply(fn)
        return self

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


# A mixin at run time, put before a student's class; a module to the type checker.
if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object


class Distill(_Base):
    """Any mmengine model, distilled.

    Building it gives an instance of a subclass of *the student's own class*:
    parameter names, checkpoint keys, ``isinstance``, stock hooks, test-time
    augmentation and prediction are the stock model's. In training the losses of
    the teacher are added to the stock ones.

    ``state_dict()`` holds the student alone and loads strictly into the stock
    model; a stock ``state_dict`` loads strictly into this one.
    ``mmkd.DistillerStateHook`` stores what else is needed to resume.

    Args:
        student: Config of the stock model, or the model.
        teacher: See :func:`mmkd.teacher.build_teacher`.
        losses: Log name -> loss config. A dict, not a list: dicts merge across
            ``_base_`` and ``--cfg-options``.
        data_preprocessor: Used where the student's config has none (the Runner
            passes a top-level ``data_preprocessor`` of the config here).

    Attributes:
        distiller: The :class:`Distiller`.

    Raises:
        ValueError: For whatever does not fit, when the model is built.
        TypeError: For arguments of a wrong type.
    """

    distiller: Distiller

    def __new__(
        cls,
        student: Mapping[str, Any] | nn.Module,
        teacher: Any,
        losses: Mapping[str, Any],
        data_preprocessor: Any = None,
    ) -> Distill:
        model = _build_student(student, data_preprocessor)
        model.__class__ = distilled_class(cls, type(model))
        return model  # type: ignore[return-value]

    def __init__(
        self,
        student: Mapping[str, Any] | nn.Module,
        teacher: Any,
        losses: Mapping[str, Any],
        data_preprocessor: Any = None,
    ) -> None:
        # The stock __init__ has run in __new__. Whatever follows must not move the
        # random state: training with weight 0 is stock training.
        with preserved_rng():
            if not isinstance(losses, Mapping):
                raise TypeError(
                    'losses must be a dict of log name -> loss config but is a '
                    f'{type(losses).__name__}'
                )
            scope = student.get('_scope_') if isinstance(student, Mapping) else None
            network = build_teacher(teacher, scope)
            network.match_inputs(getattr(self, 'data_preprocessor', None))
            distiller = Distiller(network, _build_losses(losses))
            distiller.prepare(self, self.tap_of)
        self.distiller = distiller
        self._register_state_dict_hook(_drop_distiller)
        name = distilled_from(type(self)).__name__
        print_log(f'mmkd: student {name}; {distiller.summary()}', logger='current')

    def tap_of(self, module: nn.Module) -> type[Tap]:
        """How a module is tapped: its output; the leaves know more of heads."""
        return Tap

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The stock losses and those of the teacher."""
        return self.distiller.step(self, super().loss, args, kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock forward; models without a ``loss`` method train through it."""
        run = super().forward
        if kwargs.get('mode') != 'loss' or hasattr(super(), 'loss'):
            return run(*args, **kwargs)
        del kwargs['mode']
        return self.distiller.step(
            self, functools.partial(run, mode='loss'), args, kwargs
        )

    def init_weights(self) -> None:
        """The stock initialisation, which never sees the distiller."""
        # An `init_cfg` of the whole model would initialise the adapters, too, and
        # by drawing for them change what the student gets.
        modules = self._modules
        distiller = modules.pop('distiller')
        try:
            super().init_weights()
        finally:
            modules['distiller'] = distiller

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Both torch's and mmengine's loaders come through here before they descend
        # into the children, so a stock file is complete by then.
        own = self.distiller.state_dict()
        state_dict.update({f'{prefix}distiller.{k}': v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # A class made at run time cannot be found by name.
        mixin, student = type(self).__bases__
        return _empty, (mixin, student), self.__dict__.copy()


MODELS.register_module(module=Distill)


@functools.cache
def distilled_class(mixin: Any, student: Any) -> type:
    """The class of a distilled student; one per pair, so that types compare equal.

    Args:
        mixin: :class:`Distill` or a subclass of it.
        student: Stock model class.

    Returns:
        A subclass of both.
    """
    name = f'{mixin.__name__}[{student.__name__}]'
    made = types.new_class(name, (mixin, student))
    made.__module__ = mixin.__module__
    return made


def distilled_from(model_class: type) -> type:
    """The stock class of a distilled one."""
    return model_class.__bases__[1]


def _empty(mixin: type, student: type) -> Any:
    made = distilled_class(mixin, student)
    return object.__new__(made)


def _build_student(student: Any, data_preprocessor: Any) -> nn.Module:
    if isinstance(student, nn.Module):
        model = student
    elif isinstance(student, Mapping):
        cfg: Any = copy.deepcopy(student)
        if data_preprocessor is not None and not cfg.get('data_preprocessor'):
            cfg['data_preprocessor'] = copy.deepcopy(data_preprocessor)
        model = ROOT_MODELS.build(cfg)
    else:
        raise TypeError(
            'student must be the config of a model or a model but is a '
            f'{type(student).__name__}'
        )
    if isinstance(model, Distill):
        raise ValueError('student must be a stock model but is a distilled one')
    return model


def _build_losses(losses: Mapping[str, Any]) -> dict[str, DistillLoss]:
    built = {}
    for name, cfg in losses.items():
        if cfg is None:  # switched off by a config that inherits
            continue
        loss = MODELS.build(copy.deepcopy(cfg)) if isinstance(cfg, Mapping) else cfg
        if not isinstance(loss, DistillLoss):
            raise TypeError(
                f'{name} must be a distillation loss but is a {type(loss).__name__}'
            )
        built[name] = loss
    return built


def _batch_of(args: tuple, kwargs: dict) -> Batch:
    values = [*args, *kwargs.values()]
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


def _drop_distiller(
    module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict
) -> None:
    # A plain function: EMA deep-copies the hooks with the model.
    for key in [k for k in state_dict if k.startswith(f'{prefix}distiller.')]:
        del state_dict[key]
    metadata = getattr(state_dict, '_metadata', {})
    for key in [k for k in metadata if k.startswith(f'{prefix}distiller')]:
        del metadata[key]
