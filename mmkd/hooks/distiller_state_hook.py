"""What a distilled run needs to resume exactly, beside the stock checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook

from ..cache.cached_teacher import CachedTeacher
from ..data_check import classes_of
from ..nested import move
from ..registry import HOOKS
from ..resume_check import ADD_THE_HOOK, STATE_KEY
from ..rng import get_rng_state, set_rng_state
from ._changed_losses import (
    fit_optimizers,
    fit_state,
    forget_logs,
    parameter_names,
    sentence,
)
from ._runner import (
    distiller_of,
    is_iteration_based,
    model_of,
    netaug_of,
    transfer_of,
)
from ._worker_rng import WorkerRng


@HOOKS.register_module()
class DistillerStateHook(Hook):
    """Stores adapters, critics, what NetAug adds and the state of every rank.

    ``checkpoint['state_dict']`` stays the stock student's; this hook adds the
    entry ``'distiller'`` next to it. With it a run resumes exactly, at the end
    of an epoch and at any iteration of ``IterBasedTrainLoop``, also where no
    seed was given. Validation is kept from moving the random state: a checkpoint
    is written before it.

    A run may be resumed with other losses: terms that are new start untrained, what
    the others had learnt goes on. Where a checkpoint was written in the middle of
    an epoch, MMEngine repeats that epoch. Both are said in the log.

    Raises:
        RuntimeError: When a distilled run resumes from a checkpoint without that
            entry, or a term from one of another adapter or critic.

    Example:
        >>> from mmkd.registry import HOOKS
        >>> type(HOOKS.build(dict(type='mmkd.DistillerStateHook'))).__name__
        'DistillerStateHook'
    """

    # Before CheckpointHook (VERY_LOW), which calls before_save_checkpoint.
    priority = 'LOW'

    def __init__(self) -> None:
        self._gathered: tuple[int, list[dict]] = (-1, [])  # iteration, one per rank
        self._before_validation: dict | None = None
        self._resumed: dict | None = None
        self._workers: WorkerRng | None = None
        self._done_in_epoch = 0  # iterations

    def before_train(self, runner: Any) -> None:
        """Check the classes; follow the random states of workers that stay."""
        loader = runner.train_dataloader
        distiller = distiller_of(runner)
        if distiller is not None:
            distiller.check_classes(classes_of(loader.dataset))
            if isinstance(distiller.teacher, CachedTeacher):
                model = model_of(runner)
                distiller.teacher.check_run(runner.cfg, loader.dataset, model)
        # IterBasedTrainLoop replays what its workers drew.
        if getattr(loader, 'persistent_workers', False) and not is_iteration_based(
            runner
        ):
            self._workers = WorkerRng(loader, (self._resumed or {}).get('workers'))

    def before_train_epoch(self, runner: Any) -> None:
        """Restore the random state after a resume, where the data stream is at."""
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        if is_iteration_based(runner) and runner.iter:
            # The loop is about to skip what was trained on, which draws numbers. The
            # OneDL fork has an option not to.
            loop = runner.train_loop
            stays = getattr(loop, 'fast_forward_on_resume', False)
            loop.dataloader_iterator = _RestoreAfter(
                loop.dataloader_iterator, 0 if stays else runner.iter, state
            )
        else:
            set_rng_state(state)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Gather the random states of all ranks where a checkpoint is due."""
        self._done_in_epoch = batch_idx + 1
        if _saves_after_iter(self, runner):
            self._gather(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Gather the random states of all ranks."""
        self._done_in_epoch = 0
        self._gather(runner)

    def before_val(self, runner: Any) -> None:
        """Remember the random state; the best checkpoint may be saved now."""
        self._before_validation = get_rng_state()
        self._gather(runner)

    def after_val(self, runner: Any) -> None:
        """Go on as if nothing had been validated."""
        if self._before_validation is not None:
            set_rng_state(self._before_validation)
            self._before_validation = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add the distiller's state."""
        distiller, netaug = distiller_of(runner), netaug_of(runner)
        transfer = transfer_of(runner)
        learnt: dict = dict(state_dict={}, teacher={}, netaug={}, transfer={})
        if distiller is not None:
            learnt['state_dict'] = distiller.state_dict()
            learnt['teacher'] = distiller.teacher.state_dict()
        if netaug is not None:
            learnt['netaug'] = netaug.state_dict()
        if transfer is not None:
            learnt['transfer'] = transfer.state_dict()
        if get_world_size() == 1:
            states = [self._state(runner)]
        else:
            # Only one rank saves. What was gathered at another time is of no use.
            iteration, states = self._gathered
            states = states if iteration == runner.iter else []
        checkpoint[STATE_KEY] = dict(
            **move(learnt, torch.device('cpu')),
            rng=states,
            losses=[] if distiller is None else list(distiller.losses),
            parameters=parameter_names(runner, model_of(runner)),
            done_in_epoch=self._done_in_epoch,
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the distiller's state when a run is resumed."""
        if not runner._resume:  # load_from starts a new run, from any stock file
            return
        entry: Any = checkpoint.get(STATE_KEY)
        distiller, netaug = distiller_of(runner), netaug_of(runner)
        transfer = transfer_of(runner)
        head = getattr(transfer, 'head', None)
        for child, what in (
            (distiller, 'of the distiller'),
            (netaug, 'of NetAug'),
            (head, 'of the head for masked words'),
        ):
            if child is not None and entry is None:
                raise RuntimeError(
                    f'the checkpoint to resume from holds no state {what}; '
                    + ADD_THE_HOOK
                )
        if distiller is not None:
            _restore(distiller, entry, checkpoint, runner)
        _restore_netaug(netaug, entry or {})
        _restore_transfer(transfer, entry or {})
        _reseed_data(runner, checkpoint)
        _tell_of_a_repeated_epoch(runner, checkpoint)
        states = [] if entry is None else entry['rng']
        if states and 'model' in states[0]:
            same = len(states) == get_world_size()
            model: Any = model_of(runner)
            model.set_rank_state(states[get_rank() if same else 0]['model'])
        if len(states) == get_world_size():
            self._resumed = states[get_rank()]
        else:
            runner.logger.warning(
                f'the checkpoint holds random states of {len(states)} ranks but '
                f'{get_world_size()} resume: random numbers will differ from those '
                'of the interrupted run'
            )

    def _gather(self, runner: Any) -> None:
        if get_world_size() > 1:
            self._gathered = runner.iter, all_gather_object(self._state(runner))

    def _state(self, runner: Any) -> dict:
        state = dict(self._before_validation or get_rng_state())
        rank_state: Any = getattr(model_of(runner), 'rank_state', dict)
        own = rank_state()
        if own:  # a GAN's
            state['model'] = own
        if self._workers is not None:
            state['workers'] = self._workers.states()
        return state


def _restore(distiller: Any, entry: dict, checkpoint: dict, runner: Any) -> None:
    """Load what the terms had learnt, those of now alone."""
    state, new, gone = fit_state(entry['state_dict'], entry.get('losses'), distiller)
    try:
        distiller.load_state_dict(state)
    except RuntimeError as error:
        raise RuntimeError(
            'the checkpoint to resume from was written with other adapters or critics '
            f'(a term under a new log name starts anew): {" ".join(str(error).split())}'
        ) from error
    distiller.teacher.load_state_dict(entry.get('teacher') or {})
    distiller.resume_check.is_restored = True
    if new or gone:
        fit_optimizers(checkpoint, entry.get('parameters'), runner, model_of(runner))
        forget_logs(checkpoint, gone)
        runner.logger.warning(sentence(new, gone))


def _restore_transfer(transfer: Any, entry: dict) -> None:
    """Load the head for masked words."""
    if transfer is None:
        return
    try:
        transfer.load_state_dict(entry.get('transfer') or {})
    except RuntimeError as error:
        raise RuntimeError(
            'the checkpoint to resume from was written with another schedule, which '
            'guesses masked words where this one does not, or the reverse; resume with '
            f'it, or start anew with load_from: {" ".join(str(error).split())}'
        ) from error
    transfer.resume_check.is_restored = True


def _restore_netaug(netaug: Any, entry: dict) -> None:
    """Load the weights that NetAug adds."""
    if netaug is None:
        if entry.get('netaug'):
            raise RuntimeError(
                'the checkpoint to resume from was written with NetAug, whose weights '
                'the optimizer knows; resume with it, or start anew with load_from'
            )
        return
    try:
        netaug.load_state_dict(entry.get('netaug') or {})
    except RuntimeError as error:
        raise RuntimeError(
            'the checkpoint to resume from was written without NetAug or with other '
            f'factors: {" ".join(str(error).split())}'
        ) from error
    netaug.resume_check.is_restored = True


def _tell_of_a_repeated_epoch(runner: Any, checkpoint: dict) -> None:
    done = (checkpoint.get(STATE_KEY) or {}).get('done_in_epoch', 0)
    if done and not is_iteration_based(runner):
        epoch = checkpoint['meta']['epoch'] + 1
        runner.logger.warning(
            f'the checkpoint was written after {done} iterations of epoch {epoch}, '
            'which MMEngine repeats from its beginning: they are trained on again; '
            'a run resumes exactly from the end of an epoch, or from any iteration '
            'with IterBasedTrainLoop'
        )


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

    def skip_iter(self, steps: int) -> None:
        """What the loop of the OneDL fork calls instead of stepping.

        The fork would move the sampler alone. Workers have to draw again what they
        drew, or they would go on with the random numbers of the first iterations.
        """
        for _ in range(steps):
            next(self)


def _reseed_data(runner: Any, checkpoint: dict) -> None:
    """Take the order of the data from the interrupted run.

    A run without a seed draws one. Runner takes it from the checkpoint, but only
    after the data loader was built with another.
    """
    randomness = runner._randomness_cfg
    seed = checkpoint.get('meta', {}).get('seed')
    if seed is None or seed == randomness.get('seed'):
        return
    per_rank = randomness.get('diff_rank_seed', False)
    loop = runner.train_loop
    loop.dataloader = runner.build_dataloader(
        runner._train_dataloader, seed + get_rank() * per_rank, per_rank
    )
    if is_iteration_based(runner):
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)


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
