"""The most important channels of a NetAug model go to the model itself."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapperDict

from ..registry import HOOKS
from ._runner import augmented_of, netaug_of


@HOOKS.register_module()
class SortChannelsHook(Hook):
    """Sorts the middle channels of ``mmkd.NetAug`` while it widens, as its authors do.

    At the start of every epoch, or every ``interval`` iterations, the channels in the
    middle of each block are put into the order of the L1 norm of what is made of
    them, and the optimizer's moments with them. After the first half of the training
    nothing is sorted any more.

    Args:
        interval: Iterations between two times; ``None`` for every epoch.

    Raises:
        ValueError: When the training starts, if the model is no NetAug with ``width``,
            or its weights are averaged: an average over channels that change places is
            none.

    Example:
        >>> SortChannelsHook(interval=1000).interval
        1000
    """

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'interval must be at least 1 but is {interval}')
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        """Check that there is something to sort."""
        netaug: Any = netaug_of(runner)
        if netaug is None or netaug.width is None:
            raise ValueError(
                'mmkd.SortChannelsHook must go with a model of type mmkd.NetAug that '
                'has width=(...)'
            )
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError(
                'mmkd.SortChannelsHook must not go with EMAHook: channels change '
                'places, and the average mixes them; leave one of the two out'
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Sort, where it is done by epoch."""
        if self.interval is None:
            self._sort(runner)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Sort, where it is done by iteration."""
        if self.interval is not None and runner.iter % self.interval == 0:
            self._sort(runner)

    def _sort(self, runner: Any) -> None:
        model: Any = augmented_of(runner)
        # Not what the message hub says: that is of the step before.
        if 2 * runner.iter < runner.max_iters:
            wrapper = runner.optim_wrapper
            several = isinstance(wrapper, OptimWrapperDict)
            wrappers = wrapper.values() if several else [wrapper]
            model.sort_channels([one.optimizer for one in wrappers])
