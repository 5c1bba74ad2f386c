"""What student and teacher see, after validations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..distill import Distill
from ..preflight.fit_report import class_names_of
from ..registry import HOOKS
from ..side_by_side import (
    Seen,
    as_image,
    column_of,
    drawn,
    feature_taps,
    features_figure,
    look,
    picture_of,
    predictions_figure,
)
from ._runner import model_of
from .picture_hook import PictureHook


@HOOKS.register_module()
class DistillVisualizationHook(PictureHook):
    """Draws truth, student and teacher side by side, and the tapped feature maps.

    After a validation two pictures go to the runner's visualizer, and so to every one
    of its ``vis_backends`` (files in the work directory, TensorBoard, WandB):
    ``distill_predictions``, drawn by the stock visualizer of the task, and
    ``distill_features``, the mean absolute activation over the channels where terms
    compare features, of the first picture. The run is bit for bit the one without the
    hook. A teacher that is cached, or the student's own layers, has no column.

    The teacher predicts with its whole network: parts that no loss reads come onto the
    device for it, and stay there.

    Args:
        interval: Draw after every so many validations.
        indices: Items of the validation data set.
        score: Boxes of a smaller score are not drawn.

    Raises:
        ValueError: If a number is not positive; when training starts, if there is no
            such item, or the model has no teacher.

    Example:
        >>> from mmkd.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='mmkd.DistillVisualizationHook', interval=2))
        >>> hook.indices
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        interval: int = 1,
        indices: Sequence[int] = (0, 1, 2, 3),
        score: float = 0.3,
    ) -> None:
        super().__init__(indices, interval)
        if not 0 <= score < 1:
            raise ValueError(f'score must be in [0, 1) but is {score}')
        self.score = score
        self._frozen: dict[str, list[Seen]] = {}

    def before_train(self, runner: Any) -> None:
        """Check what can be known before hours of training."""
        model = model_of(runner)
        if not isinstance(model, Distill):
            raise ValueError(
                'DistillVisualizationHook draws a distilled model but the model is '
                f'{type(model).__name__}; take it out of the hooks'
            )
        super().before_train(runner)

    def draw(self, runner: Any, data: Any, items: list) -> None:
        """Predictions and features."""
        model: Any = model_of(runner)
        taps = feature_taps(model.distiller)
        seen = dict(student=[look(model, x, _paths(taps, 'student')) for x in items])
        for name, teacher in model.distiller.teacher.members.items():
            column = column_of(name)
            theirs = self._teacher(column, teacher, items, _paths(taps, column))
            if theirs is not None:
                seen[column] = theirs
        predictions = self._predictions(runner, model, items, seen)
        runner.visualizer.add_image('distill_predictions', predictions, runner.iter)
        features = _features(picture_of(items[0]), taps, seen)
        if features is not None:
            runner.visualizer.add_image('distill_features', features, runner.iter)

    def _teacher(
        self, column: str, teacher: Any, items: list, paths: list[str]
    ) -> list[Seen] | None:
        if teacher.model is None:
            return None
        if column not in self._frozen or teacher.is_own:
            teacher.use_all()
            with teacher.precision(next(teacher.model.parameters())):
                self._frozen[column] = [look(teacher.model, x, paths) for x in items]
        return self._frozen[column]

    def _predictions(
        self, runner: Any, model: Any, items: list, seen: dict[str, list[Seen]]
    ) -> np.ndarray:
        stock = copy.copy(runner.visualizer)  # whose names may be changed
        classes = {
            column_of(name): class_names_of(teacher.model)
            for name, teacher in model.distiller.teacher.members.items()
        }
        rows = []
        for place, item in enumerate(items):
            first = seen['student'][place].sample
            row = {}
            if 'gt_instances' in first or 'gt_sem_seg' in first:
                row['truth'] = drawn(stock, item, first, truth=True)
            for name, found in seen.items():
                its = copy.copy(stock)
                theirs = classes.get(name)
                if theirs:
                    its.dataset_meta = _renamed(stock.dataset_meta or {}, theirs)
                row[name] = drawn(its, item, found[place].sample, score=self.score)
            rows.append(row)
        return as_image(predictions_figure(rows))


def _paths(taps: Mapping[str, Mapping[str, str]], column: str) -> list[str]:
    return [paths[column] for paths in taps.values() if column in paths]


def _renamed(meta: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What a visualizer knows of the data, with the teacher's classes."""
    palette = list(meta.get('palette') or ())
    if len(palette) < len(classes):  # colours that differ, in a fixed order
        shades = np.random.RandomState(0).randint(0, 256, (len(classes), 3))
        palette = [tuple(shade) for shade in shades.tolist()]
    return dict(meta, classes=tuple(classes), palette=palette)


def _features(
    picture: np.ndarray,
    taps: Mapping[str, Mapping[str, str]],
    seen: dict[str, list[Seen]],
) -> np.ndarray | None:
    """The maps of the first picture, a row for every level of every pair of taps."""
    rows = []
    pairs = {tuple(paths.items()) for paths in taps.values()}
    for paths in map(dict, sorted(pairs)):
        by_name = {n: seen[n][0].maps.get(p, []) for n, p in paths.items() if n in seen}
        for level in range(max(map(len, by_name.values()))):
            row = {n: maps[level] for n, maps in by_name.items() if level < len(maps)}
            title = ' / '.join(dict.fromkeys(paths.values()))
            rows.append((f'{title}, level {level}', row))
    return as_image(features_figure(picture, rows)) if rows else None
