"""What a distilled run needs to resume exactly, beside the stock checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook

from ..registry import HOOKS
from ..rng import get_rng_state, set_rng_state
from ._runner import distiller_of, is_iteration_based

_KEY = 'distiller'


@HOOKS.register_module()
class DistillerStateHook(Hook):
    """Stores adapters, critics and the random state of every rank.

    ``checkpoint['state_dict']`` stays the stock student's; this hook adds the
    entry ``'distiller'`` next to it. With it a run resumes exactly, at the end
    of an epoch and at any iteration of ``IterBasedTrainLoop``. Validation is
    kept from moving the random state: a checkpoint is written before it.

    Raises:
        RuntimeError: When resuming from a checkpoint without that entry.

    Example:
        >>> from mmkd.registry import HOOKS
        >>> type(HOOKS.build(dict(type='mmkd.DistillerStateHook'))).__name__
        'DistillerStateHook'
    """

    # Before CheckpointHook (VERY_LOW), which calls before_save_checkpoint.
    priority = 'LOW'

    def __init__(self) -> None:
        self._rng: list[dict] | None = None  # one state per rank
        self._before_validation: dict | None = None
        self._resumed_rng: dict | None = None

    def before_train_epoch(self, runner: Any) -> None:
        """Restore the random state after a resume, where the data stream is at."""
        if self._resumed_rng is None:
            return
        state, self._resumed_rng = self._resumed_rng, None
        if is_iteration_based(runner) and runner.iter:
            # The loop is about to skip what was trained on, which draws numbers.
            runner.train_loop.dataloader_iterator = _RestoreAfter(
                runner.train_loop.dataloader_iterator, runner.iter, state
            )
        else:
            set_rng_state(state)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Gather the random states of all ranks where a checkpoint is due."""
        if _saves_after_iter(self, runner):
            self._gather()

    def after_train_epoch(self, runner: Any) -> None:
        """Gather the random states of all ranks."""
        self._gather()

    def before_val(self, runner: Any) -> None:
        """Remember the random state; the best checkpoint may be saved now."""
        self._before_validation = get_rng_state()
        self._gather()

    def after_val(self, runner: Any) -> None:
        """Go on as if nothing had been validated."""
        if self._before_validation is not None:
            set_rng_state(self._before_validation)
            self._before_validation = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add the distiller's state."""
        distiller = distiller_of(runner)
        state = {} if distiller is None else distiller.state_dict()
        checkpoint[_KEY] = dict(
            state_dict={k: v.detach().cpu() for k, v in state.items()},
            rng=self._rng if self._rng is not None else [get_rng_state()],
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the distiller's state when a run is resumed."""
        if not runner._resume:  # load_from starts a new run, from any stock file
            return
        entry = checkpoint.get(_KEY)
        distiller = distiller_of(runner)
        if entry is None:
            raise RuntimeError(
                'the checkpoint to resume from holds no state of the distiller; '
                "write it with default_hooks=dict(distiller_state=dict(type='mmkd."
                "DistillerStateHook')), or start anew with load_from and resume=False"
            )
        if distiller is not None:
            try:
                distiller.load_state_dict(entry['state_dict'])
            except RuntimeError as error:
                raise RuntimeError(
                    'the checkpoint to resume from was written with other losses or '
                    f'adapters: {error}'
                ) from error
        states = entry['rng']
        if len(states) != get_world_size():
            runner.logger.warning(
                f'resuming {len(states)} ranks on {get_world_size()}: random numbers '
                'will differ from those of the interrupted run'
            )
            return
        self._resumed_rng = states[get_rank()]

    def _gather(self) -> None:
        self._rng = all_gather_object(get_rng_state())


class _RestoreAfter:
    """An iterator that sets the random state after a number of steps."""

    def __init__(self, iterator: Iterator, steps: int, state: dict) -> None:
        self._iterator = iterator
        self._left = steps
        self._state = state

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self._left == 0:
            set_rng_state(self._state)
        self._left -= 1
        return next(self._iterator)


def _saves_after_iter(hook: Hook, runner: Any) -> bool:
    """Whether a checkpoint hook is about to save at this iteration."""
    return any(
        not other.by_epoch
        and (
            hook.every_n_train_iters(runner, other.interval, other.save_begin)
            or hook.is_last_train_iter(runner)
        )
        for other in runner.hooks
        if isinstance(other, CheckpointHook)
    )
