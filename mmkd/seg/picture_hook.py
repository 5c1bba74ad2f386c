"""A picture of what student and teacher see, after every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from ..config import student_config
from ..hooks._runner import model_of
from ..hooks.picture_hook import PictureHook
from ..registry import HOOKS
from ..side_by_side import as_image


@HOOKS.register_module()
class SegmentationPictureHook(PictureHook):
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

    def __init__(
        self,
        indices: Sequence[int] = (0, 1, 2),
        interval: int = 1,
        compare: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(indices, interval)
        self.compare = dict(compare or {})
        self._others: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """Check what can be known before hours of training."""
        super().before_train(runner)
        for name, checkpoint in self.compare.items():
            if not Path(checkpoint).is_file():
                raise FileNotFoundError(
                    f'checkpoint {checkpoint!r} of {name!r} does not exist'
                )

    def draw(self, runner: Any, data: Any, items: list) -> None:
        """Labels and affinities."""
        from .picture import draw, look

        model = model_of(runner)
        models = {**self._compared(runner, model), 'student': model}
        rows = [look(item, models) for item in items]
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
