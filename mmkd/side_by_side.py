"""Truth, student and teacher on the same pictures, and their feature maps."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.dataset import pseudo_collate
from torch import Tensor

from .dry_run import eval_mode
from .losses.base import levels
from .taps import Tap, record

#: Levels of a pyramid that are shown.
LEVELS = 5


@dataclass
class Seen:
    """What a network makes of a picture.

    Args:
        sample: The data sample with its predictions, in pixels of the original picture.
        maps: Path -> mean absolute activation of every level, (h, w), padding cut off.
    """

    sample: Any
    maps: dict[str, list[np.ndarray]] = field(default_factory=dict)


@torch.no_grad()
def look(network: Any, item: Mapping[str, Any], paths: Sequence[str] = ()) -> Seen:
    """Let a network predict, as in a test, and record feature maps on the way.

    Flags of training are left as they were.

    Args:
        network: A detector or segmentor.
        item: Item of a validation data set.
        paths: Modules whose maps are wanted; what yields none is left out.

    Returns:
        What it sees.
    """
    data = network.data_preprocessor(pseudo_collate([copy.deepcopy(item)]), False)
    with eval_mode(network), record(network, dict.fromkeys(paths, Tap)) as taps:
        (sample,) = network(**data, mode='predict')
    height, width = data['inputs'].shape[2:]
    share = sample.img_shape[0] / height, sample.img_shape[1] / width
    maps = {path: activations(tap, share) for path, tap in taps.items() if tap.count}
    return Seen(sample, {path: found for path, found in maps.items() if found})


def activations(tap: Tap, share: tuple[float, float]) -> list[np.ndarray]:
    """Mean absolute activations over the channels of the first picture.

    Args:
        tap: Of a module that ran. In slices (``mode='slide'``) it ran repeatedly: the
            first one is taken.
        share: Of height and width that the picture takes of the padded inputs.

    Returns:
        A map (h, w) for every level, :data:`LEVELS` at most; nothing if the module
        yields no maps.
    """
    try:
        found = [x for x in levels(tap.calls['forward'][0].output) if x.dim() == 4]
    except TypeError:  # nothing but boxes, or nothing at all
        return []
    return [_mean(x, share) for x in found[:LEVELS]]


def _mean(x: Tensor, share: tuple[float, float]) -> np.ndarray:
    rows, columns = (max(1, round(n * s)) for n, s in zip(x.shape[2:], share))
    return x[0].float().abs().mean(0)[:rows, :columns].cpu().numpy()


def column_of(teacher: str) -> str:
    """What the column of a teacher is called; the name of an only one is empty."""
    return f'teacher {teacher}'.strip()


def feature_taps(distiller: Any) -> dict[str, dict[str, str]]:
    """Where terms compare features.

    Args:
        distiller: The :class:`~mmkd.distiller.Distiller`.

    Returns:
        Log name -> ``'student'`` and the column of its teacher -> path in it, of the
        terms that are on. Heads are left out: their many outputs are no features.
    """
    return {
        name: {'student': loss.at, column_of(loss.teacher): loss.teacher_at}
        for name, loss in distiller.losses.items()
        if loss.loss_weight and not loss.at.rpartition('.')[2].endswith('head')
    }


def drawn(
    visualizer: Any, item: Any, sample: Any, truth: bool = False, score: float = 0.3
) -> np.ndarray:
    """A picture with what is predicted or true, drawn by the stock visualizer.

    Args:
        visualizer: ``DetLocalVisualizer``, ``SegLocalVisualizer`` or one like them.
        item: Item of a validation data set; its picture is read where it has a path.
        sample: The data sample.
        truth: Whether the labels are drawn in the place of the predictions.
        score: Boxes of a smaller score are left out.

    Returns:
        RGB, (H, W, 3), uint8.
    """
    options: dict[str, Any] = dict(draw_gt=truth, draw_pred=not truth, show=False)
    if 'pred_score_thr' in inspect.signature(visualizer.add_datasample).parameters:
        options['pred_score_thr'] = score
    with tempfile.TemporaryDirectory(prefix='mmkd-') as folder:
        path = str(Path(folder) / 'picture.png')
        visualizer.add_datasample(
            'picture', picture_of(item), sample.cpu(), out_file=path, **options
        )
        return _rgb(cv2.imread(path))


def picture_of(item: Mapping[str, Any]) -> np.ndarray:
    """The original picture of an item: RGB, (H, W, 3), uint8.

    Args:
        item: Item of a validation data set.
    """
    sample = item['data_samples']
    path = sample.metainfo.get('img_path')
    if path is not None:
        data = np.frombuffer(fileio.get(path), np.uint8)
        return _rgb(cv2.imdecode(data, cv2.IMREAD_COLOR))
    height, width = sample.ori_shape[:2]
    picture = item['inputs'].permute(1, 2, 0).numpy().astype(np.uint8)
    return _rgb(cv2.resize(picture, (width, height)))


def _rgb(picture: np.ndarray | None) -> np.ndarray:
    if picture is None:
        raise ValueError('a picture cannot be read')
    return np.ascontiguousarray(picture[..., ::-1])


def predictions_figure(rows: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """Pictures side by side.

    Args:
        rows: For each picture name -> RGB; all with the same names.

    Returns:
        A matplotlib figure.
    """
    names = list(rows[0])
    height, width = rows[0][names[0]].shape[:2]
    figure, grid = _grid(len(rows), len(names), 4.0, 4.0 * height / width)
    for axes, row in zip(grid, rows):
        for axis, picture in zip(axes, row.values()):
            axis.imshow(picture)
    for axis, name in zip(grid[0], names):
        axis.set_title(name)
    return figure


def features_figure(
    picture: np.ndarray, maps: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> Any:
    """A picture and feature maps of several networks, level by level.

    Args:
        picture: RGB.
        maps: For each row its title and name -> map, (h, w). The maps of a row may
            differ in scale: each has its own, from its least to its largest value.

    Returns:
        A matplotlib figure.
    """
    names = list(dict.fromkeys(name for _, row in maps for name in row))
    height, width = picture.shape[:2]
    figure, grid = _grid(len(maps), 1 + len(names), 2.6, 2.6 * height / width)
    for axis, name in zip(grid[0], ['picture', *names]):
        axis.set_title(name)
    for axes, (title, row) in zip(grid, maps):
        axes[0].imshow(picture)
        axes[0].text(
            0.02, 0.03, title, transform=axes[0].transAxes, fontsize=8,
            color='white', backgroundcolor='#000000AA',
        )  # fmt: skip
        for axis, name in zip(axes[1:], names):
            if name in row:
                axis.imshow(row[name], cmap='viridis')
    return figure


def _grid(rows: int, columns: int, wide: float, high: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (wide * columns, high * rows + 0.4)
    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    return figure, grid


def as_image(figure: Any) -> np.ndarray:
    """A figure as RGB, (H, W, 3), uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
