"""A picture of what student and teacher see, after every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from ..config import student_config
from ..registry import HOOKS
from ..side_by_side import as_image


@HOOKS.register_module()
class SegmentationPictureHook(Hook):
    """Draws pictures, truth, labels of student and teacher, and affinity maps.

    An affinity map shows how alike the features of one marked place and of all others
    are, which the pair-wise loss teaches. The picture goes to the runner's visualizer
    as ``segmentation``; its local backend writes it into the work directory.

    Args:
        indices: Items of the validation data set.
        interval: Draw after every so many validations.
        compare: Name -> checkpoint of the same student to show beside it, such as
            ``{'student alone': 'work_dirs/alone/iter_1000.pth'}``.

    Raises:
        ValueError: If a number is not positive, or there is no such item.
        FileNotFoundError: When training starts: a checkpoint that does not exist.

    Example:
        >>> from mmkd.registry import HOOKS
        >>> kind = 'mmkd.SegmentationPictureHook'
        >>> hook = HOOKS.build(dict(type=kind, indices=[0, 5]))
        >>> hook.indices
        [0, 5]
    """

    priority = 'LOW'

    def __init__(
        self,
        indices: Sequence[int] = (0, 1, 2),
        interval: int = 1,
        compare: Mapping[str, str] | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f'interval must be >= 1 but is {interval}')
        if not indices or min(indices) < 0:
            raise ValueError(
                f'indices must name items of the data set but are {list(indices)}'
            )
        self.indices = list(indices)
        self.interval = interval
        self.compare = dict(compare or {})
        self._others: dict[str, Any] | None = None
        self._validations = 0

    def before_train(self, runner: Any) -> None:
        """Check what can be known before hours of training."""
        length = len(runner.val_loop.dataloader.dataset)
        if max(self.indices) >= length:
            raise ValueError(
                f'indices must be below {length}, the length of the validation data, '
                f'but are {self.indices}'
            )
        for name, checkpoint in self.compare.items():
            if not Path(checkpoint).is_file():
                raise FileNotFoundError(
                    f'checkpoint {checkpoint!r} of {name!r} does not exist'
                )

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw, in the main process."""
        self._validations += 1
        if runner.rank or self._validations % self.interval:
            return
        try:
            self._draw(runner)
        except Exception as error:  # a picture is not worth the training
            runner.logger.warning(f'no picture: {type(error).__name__}: {error}')

    def _draw(self, runner: Any) -> None:

        from .picture import draw, look

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        data = runner.val_dataloader.dataset
        models = {**self._compared(runner, model), 'student': model}
        rows = [look(data[index], models) for index in self.indices]
        meta = data.metainfo
        picture = as_image(draw(rows, meta['palette'], meta['classes']))
        runner.visualizer.add_image('segmentation', picture, step=runner.iter)

    def _compared(self, runner: Any, model: Any) -> dict[str, Any]:
        """The other checkpoints, loaded once."""
        if self._others is None:
            self._others = {}
            device = next(model.parameters()).device
            for name, checkpoint in self.compare.items():
                config: Config = student_config(runner.cfg)
                network = MODELS.build(config.model)
                load_checkpoint(network, checkpoint, map_location='cpu', strict=True)
                self._others[name] = network.to(device)
        return self._others
