"""What hooks share that draw validation pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log

from ..rng import preserved_rng


class PictureHook(Hook):
    """Draws some validation pictures after validations, in the main process.

    What fails is told in the log and ends no training, and the random state is left
    as it was. A subclass implements :meth:`draw`.

    Args:
        indices: Items of the validation data set.
        interval: Draw after every so many validations.

    Raises:
        ValueError: If a number is not positive; when training starts, if there is no
            such item.
    """

    # Before EMAHook takes back the averaged weights that were validated.
    priority = 'ABOVE_NORMAL'

    def __init__(self, indices: Sequence[int], interval: int) -> None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f'interval must be an integer >= 1 but is {interval!r}')
        if not indices or min(indices) < 0:
            raise ValueError(
                f'indices must name items of the data set but are {list(indices)}'
            )
        self.indices = list(indices)
        self.interval = interval
        self._validations = 0

    def before_train(self, runner: Any) -> None:
        """Check what can be known before hours of training."""
        if runner.val_loop is None:
            raise ValueError(
                f'{type(self).__name__} draws after validations; the run has none: '
                'take it out of the hooks, or add val_dataloader'
            )
        length = len(runner.val_loop.dataloader.dataset)
        if max(self.indices) >= length:
            raise ValueError(
                f'indices must be below {length}, the length of the validation data, '
                f'but are {self.indices}'
            )

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw, if it is time."""
        self._validations += 1
        if runner.rank or self._validations % self.interval:
            return
        try:
            with preserved_rng():
                data = runner.val_loop.dataloader.dataset
                self.draw(runner, data, [data[index] for index in self.indices])
        except Exception as error:  # a picture is not worth the training
            print_log(
                f'mmkd: no picture: {type(error).__name__}: {error}',
                logger='current',
                level=logging.WARNING,
            )

    def draw(self, runner: Any, data: Any, items: list) -> None:
        """Hand pictures to the runner's visualizer.

        Args:
            runner: The runner.
            data: The validation data set.
            items: Those of its items that are drawn.
        """
        raise NotImplementedError(f'{type(self).__name__} must define draw()')
