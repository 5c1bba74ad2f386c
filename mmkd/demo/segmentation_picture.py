"""The segmentation demo's picture: label maps, and affinities, of three models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..fileio import replacing
from .runs import ALONE, DISTILLED, TEACHER, DemoRun


def draw_segmentation_demo(
    runs: Mapping[str, DemoRun], data_root: Path, path: Path, rows: int = 4
) -> Path:
    """Draw truth and three models side by side, with affinity maps.

    Shown are the validation pictures on which the shares of pixels that the two
    students have right differ most, whichever is better.

    Args:
        runs: Name -> run that is done.
        data_root: The digits data set.
        path: PNG file to write.
        rows: Number of pictures.

    Returns:
        ``path``.
    """
    from mmengine.registry import DATASETS, MODELS, DefaultScope
    from mmengine.runner import load_checkpoint

    from ..config import student_config
    from ..seg.picture import Row, draw, look

    models = {}
    with DefaultScope.overwrite_default_scope('mmseg'):
        data = DATASETS.build(runs[ALONE].cfg.val_dataloader.dataset)
        for name in (ALONE, DISTILLED, TEACHER):
            models[name] = MODELS.build(student_config(runs[name].cfg).model)
            file = str(runs[name].checkpoint)
            load_checkpoint(models[name], file, map_location='cpu', strict=True)
    classes, palette = data.metainfo['classes'], data.metainfo['palette']
    seen = [look(sample, models) for sample in data]

    def difference(row: Row) -> float:
        alone, distilled = (
            _right(row.seen[name].labels, row.truth, len(classes))
            for name in (ALONE, DISTILLED)
        )
        return -abs(alone - distilled)

    chosen = sorted(seen, key=difference)[:rows]
    figure = draw(chosen, palette, classes)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, format='png', facecolor='white')
    return path


def _right(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Share of the labelled pixels that are not background which are right."""
    digits = (truth > 0) & (truth < classes)
    return float((labels == truth)[digits].mean()) if digits.any() else 1.0
