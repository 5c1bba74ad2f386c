"""A student with a teacher that is still an instance of the student's class."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn

from .distiller import Distiller
from .extended import Extended, build_stock, stock_class
from .inheritance import Inheritance
from .losses.base import DistillLoss
from .own_teacher import own_teacher
from .problems import Problems
from .registry import MODELS
from .rng import preserved_rng
from .taps import Tap, nearest
from .teacher_group import build_teachers, class_maps


class Distill(Extended):
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
        teacher: See :func:`mmkd.teacher.build_teacher`; ``'ema'`` for the average
            of the student over time, ``'self'`` for its own deeper layers, see
            :mod:`mmkd.own_teacher`; ``dict(teachers=dict(a=..., b=...))`` for several,
            see :mod:`mmkd.teacher_group`.
        losses: Log name -> loss config. A dict, not a list: dicts merge across
            ``_base_`` and ``--cfg-options``. Where there are several teachers
            ``teacher='a'`` in it says which.
        data_preprocessor: Used where the student's config has none (the Runner
            passes a top-level ``data_preprocessor`` of the config here).
        init_from_teacher: Sub-modules such as ``['neck', 'bbox_head']`` that start
            with the teacher's weights, copied at the end of :meth:`init_weights`;
            see :class:`~mmkd.inheritance.Inheritance`.

    Attributes:
        distiller: The :class:`~mmkd.distiller.Distiller`.

    Raises:
        ValueError: For whatever does not fit, when the model is built.
        TypeError: For arguments of a wrong type.

    Example:
        >>> import torch
        >>> from mmengine.model import BaseModel
        >>> class Toy(BaseModel):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.body = nn.Conv2d(3, width, 1)
        ...     def forward(self, inputs, data_samples=None, mode='tensor'):
        ...         features = self.body(inputs)
        ...         return dict(loss=features.mean()) if mode == 'loss' else features
        >>> hint = dict(type='mmkd.FeatureImitationLoss', at='body')
        >>> model = Distill(Toy(2), teacher=Toy(8), losses=dict(loss_hint=hint))
        >>> isinstance(model, Toy), list(model.state_dict())
        (True, ['body.weight', 'body.bias'])
        >>> list(model(torch.randn(1, 3, 4, 4), mode='loss'))
        ['loss', 'loss_hint']
    """

    added = 'distiller'
    distiller: Distiller

    def __new__(
        cls,
        student: Mapping[str, Any] | nn.Module,
        teacher: Any,
        losses: Mapping[str, Any],
        data_preprocessor: Any = None,
        init_from_teacher: Sequence[str] | Mapping[str, str] = (),
    ) -> Distill:
        model: Any = build_stock(student, 'student', data_preprocessor)
        if isinstance(model, Distill):
            raise ValueError('student must be a stock model but is a distilled one')
        return cls.extend(model)

    def __init__(
        self,
        student: Mapping[str, Any] | nn.Module,
        teacher: Any,
        losses: Mapping[str, Any],
        data_preprocessor: Any = None,
        init_from_teacher: Sequence[str] | Mapping[str, str] = (),
    ) -> None:
        # The stock __init__ has run in __new__. Whatever follows must not move the
        # random state: training with weight 0 is stock training.
        with preserved_rng():
            if not isinstance(losses, Mapping):
                raise TypeError(
                    'losses must be a dict of log name -> loss config but is a '
                    f'{type(losses).__name__}'
                )
            scope = None
            if isinstance(student, Mapping):  # NetAug's is that of its model
                scope = {**(student.get('model') or {}), **student}.get('_scope_')
            self.add(self._distiller(teacher, scope, losses, init_from_teacher))
        self._has_inherited = False
        name = stock_class(type(self)).__name__
        print_log(f'mmkd: student {name}; {self.distiller.summary()}', logger='current')

    def _distiller(
        self,
        teacher: Any,
        scope: str | None,
        losses: Mapping[str, Any],
        init_from_teacher: Any,
    ) -> Distiller:
        problems = Problems()
        built = _build_losses(losses, class_maps(teacher), problems)
        distiller: Any = None
        with problems.caught('teacher'):
            network = own_teacher(teacher, self, stock_class(type(self)))
            network = network or build_teachers(teacher, scope)
            network.match_inputs(getattr(self, 'data_preprocessor', None))
            # Before the teacher is made cheaper, which changes its weights.
            inheritance = Inheritance(self, network, init_from_teacher)
            distiller = Distiller(network, built, inheritance)
        if distiller is not None:
            with problems.caught():
                distiller.prepare(self, self.tap_of, problems)
        problems.raise_all()
        return distiller

    def tap_of(self, module: nn.Module) -> type[Tap]:
        """How a module is tapped: its output; the leaves know more of heads."""
        return Tap

    def row_rule(self, module: nn.Module) -> dict[str, Any]:
        """What decides the rows of a head that losses read, for a teacher's cache.

        Raises:
            ValueError: If it is not the labels alone.
        """
        raise ValueError(f'{type(module).__name__} is no dense head with rows')

    def training_step(self, run: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The stock losses and the teacher's."""
        return self.distiller.step(self, run, args, kwargs)

    def init_weights(self) -> None:
        """The stock initialisation, then what starts with the teacher's weights."""
        super().init_weights()
        # Called once more, as the stock one, it leaves trained weights alone.
        if not self._has_inherited:
            self.distiller.inheritance.apply(self)
            self._has_inherited = True


MODELS.register_module(module=Distill)


def _build_losses(
    losses: Mapping[str, Any], maps: Mapping[str, Any], problems: Problems
) -> dict[str, DistillLoss]:
    built = {}
    for name, cfg in losses.items():
        if cfg is None:  # switched off by a config that inherits
            continue
        with problems.caught(name):
            built[name] = _build_loss(name, cfg, maps, losses.keys() - {name})
    return built


def _build_loss(
    name: str, cfg: Any, maps: Mapping[str, Any], others: Iterable[str]
) -> DistillLoss:
    if isinstance(cfg, DistillLoss):
        return cfg
    if not isinstance(cfg, Mapping):
        raise TypeError(
            f'{name} must be the config of a distillation loss but is a '
            f'{type(cfg).__name__}'
        )
    if 'type' not in cfg:
        raise ValueError(
            f'{name} must have a type but is {dict(cfg)}{nearest(name, others)}'
        )
    kind = _loss_class(name, cfg)
    cfg = copy.deepcopy(dict(cfg))
    accepted = inspect.signature(kind).parameters
    teacher = cfg.pop('teacher', None) or ''
    if teacher in maps and 'teacher_classes' in accepted:
        cfg.setdefault('teacher_classes', maps[teacher])
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        for key in cfg.keys() - accepted.keys() - {'type', '_scope_'}:
            raise TypeError(
                f'{name}: {kind.__name__} has no argument {key!r}'
                f'{nearest(key, accepted)} It has: {", ".join(accepted)}'
            )
    loss = MODELS.build(cfg)
    loss.teacher = teacher
    return loss


def _loss_class(name: str, cfg: Mapping[str, Any]) -> type[DistillLoss]:
    """The class of a loss that a config names."""
    kind = cfg['type']
    found = kind
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            found = registry.get(kind)
    if isinstance(found, type) and issubclass(found, DistillLoss):
        return found
    MODELS.import_from_location()
    known = sorted(
        key
        for key, made in MODELS.module_dict.items()
        if isinstance(made, type) and issubclass(made, DistillLoss)
    )
    listed = f'There are: mmkd.{", mmkd.".join(known)}'
    if found is not None:
        what = getattr(found, '__name__', type(found).__name__)
        raise TypeError(f'{name} must be a distillation loss but is a {what}. {listed}')
    hint = nearest(kind.removeprefix('mmkd.'), known, 'mmkd.')
    raise ValueError(
        f'{name} must be a distillation loss but there is no {kind!r}{hint} {listed}'
    )
