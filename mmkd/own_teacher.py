"""Teachers that are the student: its average over time, or its own deeper layers."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from .base_teacher import BaseTeacher
from .batch import Batch
from .config import own_kind, teacher_options
from .dry_run import DryRun, dry_run
from .extended import ADDED
from .pruning import Reads
from .taps import Tap, resolve
from .teacher import Teacher

#: The average by default, that of Mean Teacher's code: of all steps alike for the first
#: thousand, with a momentum of 0.001 from there on.
AVERAGE = dict(type='MomentumAnnealingEMA', momentum=0.001, gamma=1)
#: What it cannot be told: buffers are the student's, and so is the device.
_NOT_TAKEN = ('update_buffers', 'device', 'model')


class AveragedTeacher(Teacher):
    """The average of the student's weights over the steps of the training.

    It is brought up to date at the beginning of every training step, also while a
    schedule holds all terms off, and starts as the student of the first one. With
    gradients that are accumulated over N steps the same weights count N times.
    Buffers (BatchNorm's statistics) are the student's of that moment.
    ``mmkd.DistillerStateHook`` stores it beside the student, for resuming.

    Reference:
        Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017,
        https://arxiv.org/abs/1703.01780

    Args:
        student: The stock model, which is copied.
        average: Config of one of MMEngine's averaged models, as ``EMAHook`` takes it;
            :data:`AVERAGE` where it says nothing.

    Raises:
        TypeError: If there is no such average, or it has no such argument.
        ValueError: If it is told to average buffers, or where to be.

    Example:
        >>> student = nn.Linear(1, 1, bias=False)
        >>> teacher = AveragedTeacher(student, dict(momentum=0.25, gamma=1e-9))
        >>> for value in (1.0, 2.0, 2.0):
        ...     _ = nn.init.constant_(student.weight, value)
        ...     teacher.begin(student)
        ...     print(teacher.model.weight.item())
        1.0
        1.25
        1.4375
    """

    is_own = True

    def __init__(
        self, student: nn.Module, average: Mapping[str, Any] | None = None
    ) -> None:
        for name in _NOT_TAKEN:
            if name in (average or {}):
                raise ValueError(
                    f'teacher=dict(ema=...) has no option {name}; leave it out'
                )
        cfg = dict(AVERAGE, **(average or {}))
        if cfg['type'] != AVERAGE['type'] and 'gamma' not in (average or {}):
            del cfg['gamma']
        try:
            self._average: Any = ROOT_MODELS.build(dict(cfg, model=student))
        except (TypeError, KeyError, AssertionError) as error:
            raise TypeError(
                "teacher=dict(ema=...) takes the options of MMEngine's averaged models "
                f'(momentum, gamma, interval) but was given {dict(average or {})}: '
                f'{str(error).partition(chr(10))[0]}'
            ) from error
        if not isinstance(self._average, BaseAveragedModel):
            raise TypeError(
                f'teacher=dict(ema=...) must be an average but is a {cfg["type"]}'
            )
        super().__init__(self._average.module, 'the average of the student')

    @torch.no_grad()
    def begin(self, student: nn.Module, is_copy: bool = False) -> None:
        if not is_copy:
            self._average.update_parameters(student)
        elif not self._average.steps:  # as it will be in the first step
            ours = dict(student.named_parameters())
            for name, weight in self.model.named_parameters():
                weight.copy_(ours[name])

    def economize(self, seen: DryRun, reads: Reads) -> None:
        """Nothing: what is made cheaper for good could not be averaged."""

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            print_log(
                'mmkd: the checkpoint to resume from holds no average of the student: '
                'the teacher starts as the student that is resumed',
                logger='current',
                level=logging.WARNING,
            )
            return
        self._average.load_state_dict(state)

    def __repr__(self) -> str:
        return f'{type(self.model).__name__} ({self.source})'


class SelfTeacher(BaseTeacher):
    """The student's own layers in its own pass: deeper ones teach others.

    What ``teacher_at`` names is recorded while the student trains, and receives no
    gradient. There is no second pass, nor a second network.

    Reference:
        Zhang et al., Be Your Own Teacher, ICCV 2019,
        https://arxiv.org/abs/1905.08094; Hou et al., Self Attention Distillation,
        ICCV 2019, https://arxiv.org/abs/1908.00821

    Args:
        student: The student.
    """

    is_own = True
    source = "the student's own layers"

    def __init__(self, student: nn.Module) -> None:
        # For the build alone. The student holds this object, and its copies do.
        self._student: Any = weakref.ref(student)

    def check_term(self, loss: Any) -> None:
        super().check_term(loss)
        if loss.at == loss.teacher_at:
            raise ValueError(
                f"{loss.at!r} cannot teach itself; with teacher='self' name another "
                'layer by teacher_at'
            )

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        found = tap_of(resolve(self._student(), path))
        if found.follow is not Tap.follow:
            raise ValueError(
                f"{path!r} cannot teach with teacher='self': it would have to score "
                'the RoIs of another stage in a pass of its own; tap another module'
            )
        return found

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        seen = dry_run(self._student(), tap_types, at_least)
        seen.idle = []  # what runs in training alone, as auxiliary heads, can teach
        return seen

    def recorded_in_student(
        self, tap_types: Mapping[str, type[Tap]]
    ) -> Mapping[str, type[Tap]]:
        """All of them."""
        return tap_types

    def run(self, batch: Batch, tap_types: Any, *others: Any) -> dict[str, Tap]:
        """Nothing yet: the student has not run."""
        return {}

    def completed(
        self, taps: dict[str, Tap], student: Mapping[str, Tap]
    ) -> dict[str, Tap]:
        """What the student's taps recorded, without a way back."""
        return {path: tap.twin(Tensor.detach) for path, tap in student.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return self.source


def own_teacher(teacher: Any, student: nn.Module, stock: type) -> Any:
    """The teacher that a config makes of the student.

    Args:
        teacher: ``'ema'``, ``dict(ema=dict(momentum=...))`` or ``'self'``; whatever
            else a ``teacher`` entry may be.
        student: The student, without a distiller.
        stock: Its stock class.

    Returns:
        ``None`` if another network is named.

    Raises:
        ValueError: If something else is named beside.
    """
    kind = own_kind(teacher)
    if kind is None:
        return None
    options = teacher_options(teacher)
    others = sorted(options.keys() - {kind, '_scope_'})
    if others:
        raise ValueError(
            f'a teacher that is the student ({kind!r}) has no option '
            f'{", ".join(others)}; leave it out, or name another network'
        )
    if kind == 'self':
        if options[kind]:
            raise ValueError(f"teacher='self' has no options, not {options[kind]}")
        return SelfTeacher(student)
    twin: Any = copy.deepcopy(student)
    twin.__class__ = stock
    for name in ADDED:  # what trains beside the student does not predict
        twin._modules.pop(name, None)
    return AveragedTeacher(twin, options[kind])
