"""When each distillation term is on, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict

from ..registry import HOOKS
from ._runner import distiller_of, is_iteration_based


@dataclass(frozen=True)
class Schedule:
    """A term is off, ramps up linearly, stays on, and is off again.

    Args:
        begin: First epoch (or iteration) in which it is on.
        end: First one in which it is off again; ``None`` for never.
        ramp: Length of the linear ramp from 0 to 1 that starts at ``begin``.
        by_epoch: Whether the unit is epochs, else iterations. An epoch of
            ``IterBasedTrainLoop`` is ``len(train_dataloader)`` iterations, as for
            MMEngine's parameter schedulers.

    Raises:
        ValueError: If the numbers contradict each other.

    Example:
        >>> schedule = Schedule(begin=2, end=10, ramp=4)
        >>> [schedule.factor(t) for t in (1, 2, 3, 6, 9.9, 10)]
        [0.0, 0.0, 0.25, 1.0, 1.0, 0.0]
    """

    begin: float = 0
    end: float | None = None
    ramp: float = 0
    by_epoch: bool = True

    def __post_init__(self) -> None:
        if self.begin < 0 or self.ramp < 0:
            raise ValueError(
                f'begin and ramp must be >= 0 but are {self.begin} and {self.ramp}'
            )
        if self.end is not None and self.end <= self.begin:
            raise ValueError(
                f'end must be after begin but they are {self.end} and {self.begin}'
            )

    def factor(self, time: float) -> float:
        """Factor in [0, 1] of the term.

        Args:
            time: Epochs (fractions count) or iterations since the start.

        Returns:
            The factor.
        """
        if time < self.begin or time >= (math.inf if self.end is None else self.end):
            return 0.0
        return min(1.0, (time - self.begin) / self.ramp) if self.ramp else 1.0


@HOOKS.register_module()
class DistillScheduleHook(Hook):
    """Sets the factors of the distillation terms before every iteration.

    Terms that are not named stay on. While no term is on, the teacher does not
    run; the weights that a term trains are touched with zero gradients then, so
    that DDP needs no ``find_unused_parameters``.

    Args:
        losses: Log name -> ``dict(begin=0, end=None, ramp=0, by_epoch=True)``.

    Raises:
        ValueError: If a name is no distillation term, or numbers contradict.

    Example:
        >>> hook = DistillScheduleHook(losses=dict(loss_hint=dict(end=8, ramp=1)))
        >>> hook.schedules['loss_hint'].factor(0.5)
        0.5
    """

    # Before the hooks that log or save.
    priority = 'VERY_HIGH'

    def __init__(self, losses: Mapping[str, Mapping[str, Any]]) -> None:
        self.schedules = {}
        for name, arguments in losses.items():
            accepted = {field.name for field in fields(Schedule)}
            if not isinstance(arguments, Mapping) or arguments.keys() - accepted:
                raise ValueError(
                    f'schedule of {name} must be a dict of begin, end, ramp and '
                    f'by_epoch but is {arguments}'
                )
            try:
                self.schedules[name] = Schedule(**arguments)
            except (TypeError, ValueError) as error:
                raise ValueError(f'schedule of {name}: {error}') from error

    def before_train(self, runner: Any) -> None:
        """Check the names against the model."""
        distiller = distiller_of(runner)
        known = list(distiller.factors) if distiller else []
        unknown = sorted(set(self.schedules) - set(known))
        if unknown:
            raise ValueError(
                f'DistillScheduleHook names {unknown} but the model distils {known}'
            )
        if distiller is None:
            return
        wrappers = runner.optim_wrapper
        if not isinstance(wrappers, OptimWrapperDict):
            wrappers = dict(all=wrappers)
        for wrapper in wrappers.values():
            wrapper.optimizer.register_step_pre_hook(
                lambda *_: distiller.forget_idle_gradients()
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Set the factors; they follow from the iteration alone, also after resume."""
        distiller = distiller_of(runner)
        for name, schedule in self.schedules.items():
            time = float(runner.iter)
            if schedule.by_epoch:
                time = _epochs(runner, batch_idx)
            distiller.factors[name] = schedule.factor(time)  # type: ignore[union-attr]


def _epochs(runner: Any, batch_idx: int) -> float:
    length = len(runner.train_dataloader)
    if is_iteration_based(runner):
        return runner.iter / length
    # Not iter / length: a run may continue with another batch size.
    return runner.epoch + batch_idx / length
