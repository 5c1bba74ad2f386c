"""BatchNorm statistics of a model by itself, taken anew before they are read."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..extended import ADDED
from ..registry import HOOKS
from ..rng import preserved_rng
from ._runner import model_of

#: Of the pictures that are taken, and of what is random in them.
_SEED = 0


@HOOKS.register_module()
class RecalibrateHook(Hook):
    """Takes the statistics of BatchNorm anew before a validation and a checkpoint.

    What the running statistics have seen may not be what the model computes by itself:
    with ``mmkd.NetAug(shared_statistics=True)`` they are those of wider networks, too.
    The hook replaces them by the mean over training pictures, as the authors of NetAug
    do before every evaluation. It changes no weight, and the training goes on as it
    would have without it: BatchNorm normalises by the batch there, and random states
    are left as they were. Where BatchNorm is frozen, nothing is changed.

    The pictures come from a loader of its own, made of the run's ``train_dataloader``,
    the same ones every time, and are not augmented beyond its pipeline. Every rank
    takes its share of them.

    Reference:
        Cai et al., Network Augmentation for Tiny Deep Learning, ICLR 2022; its 16,000
        pictures are the default

    Args:
        samples: Pictures, of all ranks together; all of a smaller data set.

    Raises:
        ValueError: If the number is not positive; when the training starts, if no
            BatchNorm follows its batches, or the weights that are validated are an
            average: the statistics would be those of others.

    Example:
        >>> RecalibrateHook(samples=256).samples
        256
    """

    # Ahead of what saves.
    priority = 'LOW'

    def __init__(self, samples: int = 16000) -> None:
        if type(samples) is not int or samples < 1:
            raise ValueError(f'samples must be an integer >= 1 but is {samples!r}')
        self.samples = samples
        self._is_stale = False
        self._loader: Any = None

    def before_train(self, runner: Any) -> None:
        """Check that there is something to take."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError(
                'mmkd.RecalibrateHook must not go with EMAHook: statistics of the '
                'weights in training are not those of their average; leave one of the '
                'two out'
            )
        model = model_of(runner)
        model.train()
        if not _norms(model):
            raise ValueError(
                'mmkd.RecalibrateHook needs a BatchNorm that follows its batches, but '
                f'{type(model).__name__} has none, or all of them are frozen '
                '(norm_eval=True); take the hook out'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Recalibrate, if a checkpoint is written at the end of this iteration."""
        self._is_stale = True
        for hook in _savers(runner, by_epoch=False):
            if hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or (
                hook.save_last and hook.is_last_train_iter(runner)
            ):
                self._recalibrate(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Recalibrate, if a checkpoint is written at the end of this epoch."""
        for hook in _savers(runner, by_epoch=True):
            if hook.every_n_epochs(runner, hook.interval, hook.save_begin) or (
                hook.save_last and hook.is_last_train_epoch(runner)
            ):
                self._recalibrate(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Recalibrate, if the weights have changed since."""
        self._recalibrate(runner)

    def _recalibrate(self, runner: Any) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        with preserved_rng():
            if self._loader is None:
                self._loader = _own_loader(runner)
            set_random_seed(_SEED, diff_rank_seed=True)
            size = runner.cfg.train_dataloader.batch_size
            wanted = -(-self.samples // (size * get_world_size()))
            batches = itertools.islice(self._loader, wanted)
            seen = recalibrate(model_of(runner), batches)
        print_log(
            f'mmkd: BatchNorm statistics taken anew from {seen} batches of {size}',
            logger='current',
        )


def recalibrate(model: Any, batches: Any) -> int:
    """Replace a model's BatchNorm statistics by the mean of those of batches.

    Of every rank's batches, each with its share. What is in eval mode keeps its own,
    and so does what the model's ``tensor`` mode does not run, such as heads that exist
    in training alone.

    Args:
        model: A model of MMEngine, in training mode; its modes are left as they are.
        batches: What its data loader yields.

    Returns:
        The number of batches.

    Example:
        >>> import torch
        >>> from mmengine.model import BaseDataPreprocessor, BaseModel
        >>> class Model(BaseModel):
        ...     def __init__(self):
        ...         super().__init__(BaseDataPreprocessor())
        ...         self.norm = torch.nn.BatchNorm1d(1)
        ...
        ...     def forward(self, inputs, data_samples=None, mode='tensor'):
        ...         return self.norm(inputs)
        >>> model = Model()
        >>> data = [dict(inputs=torch.full((2, 1), x)) for x in (1.0, 3.0)]
        >>> recalibrate(model, data), model.norm.running_mean.item()
        (2, 2.0)
    """
    norms = _norms(model)
    modes = {module: module.training for module in model.modules()}
    old = {norm: (norm.momentum, copy.deepcopy(norm._buffers)) for norm in norms}
    renewed = []
    model.eval()
    count = 0
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        with torch.no_grad():
            for data in batches:
                # As in a test: what is random here is not for statistics.
                data = model.data_preprocessor(data, False)
                model._run_forward(data, mode='tensor')
                count += 1
        renewed = [norm for norm in norms if norm.num_batches_tracked]
        for norm in renewed:
            for value in (norm.running_mean, norm.running_var):
                all_reduce(value, 'mean')
    finally:
        for norm, (momentum, buffers) in old.items():
            norm.momentum = momentum
            kept = ('num_batches_tracked',) if norm in renewed else buffers
            for name in kept:
                norm._buffers[name].copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
    return count


def _norms(model: nn.Module) -> list[Any]:
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and module.track_running_stats
        and path.partition('.')[0] not in ADDED
    ]


def _savers(runner: Any, by_epoch: bool) -> list[CheckpointHook]:
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return [hook for hook in hooks if hook.by_epoch == by_epoch]


def _own_loader(runner: Any) -> Any:
    settings = copy.deepcopy(runner.cfg.get('train_dataloader'))
    if not isinstance(settings, dict):
        raise ValueError(
            'mmkd.RecalibrateHook needs the train_dataloader of the config, to make '
            f'one of its own, but it is {type(settings).__name__}'
        )
    # Nobody waits for the next batch between two validations.
    settings.update(
        persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=True)
    )
    settings.pop('num_batch_per_epoch', None)
    return Runner.build_dataloader(settings, seed=_SEED)
