"""Pictures of what segmentors see: label maps, and affinities of one place to all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor

from ..batch import Batch
from ..taps import record
from .views import DecodeHeadView

IGNORED = (255, 255, 255)


@dataclass(frozen=True)
class Seen:
    """What one segmentor makes of a picture.

    Args:
        labels: Class of every pixel, (H, W).
        features: What its head classifies, (D, h, w); ``None`` if it has no conv_seg.
    """

    labels: np.ndarray
    features: Tensor | None


@dataclass(frozen=True)
class Row:
    """A picture and what several segmentors make of it.

    Args:
        image: RGB, (H, W, 3), uint8.
        truth: Its labels, (H', W'); those beyond the palette are ignored ones.
        seen: Name of a model -> what it made of it.
    """

    image: np.ndarray
    truth: np.ndarray
    seen: Mapping[str, Seen]


def look(
    sample: Mapping[str, Any], models: Mapping[str, Any], at: str = 'decode_head'
) -> Row:
    """Let segmentors look at a sample as a whole; they are left as they were.

    A segmentor that is tested in slices (``mode='slide'``) may predict otherwise.

    Args:
        sample: Item of a test data set, with its labels.
        models: Name -> segmentor. One that is distilled adds its teacher.
        at: Path of the decode head.

    Returns:
        What they see.
    """
    seen: dict[str, Seen] = {}
    for name, model in models.items():
        data = model.data_preprocessor(pseudo_collate([dict(sample)]), False)
        batch = Batch(data['inputs'], data['data_samples'])
        flags = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad(), record(model.eval(), {at: DecodeHeadView}) as taps:
                model(batch.inputs, batch.data_samples, mode='tensor')
        finally:
            for module, flag in flags:
                module.training = flag
        seen[name] = _seen(taps[at], batch)
        # A cached teacher knows the training pictures alone.
        if hasattr(model, 'distiller') and model.distiller.teacher.model is not None:
            taps = model.distiller.teacher.run(batch, {at: DecodeHeadView})
            seen['teacher'] = _seen(taps[at], batch)
    image = sample['inputs'].flip(0).permute(1, 2, 0)  # read as BGR
    truth = sample['data_samples'].gt_sem_seg.data[0]
    return Row(image.cpu().numpy(), truth.cpu().numpy(), seen)


def _seen(view: Any, batch: Batch) -> Seen:
    height, width = batch.inputs.shape[2:]
    rows, columns = batch.data_samples[0].img_shape[:2]
    logits = F.interpolate(
        view.logits[0].float(),
        (height, width),
        mode='bilinear',
        align_corners=view.module.align_corners,
    )[..., :rows, :columns]
    if logits.shape[1] == 1:
        labels = logits[0, 0].sigmoid() > view.module.threshold
    else:
        labels = logits[0].argmax(0)
    has_features = bool(view.calls.get('cls_seg'))
    features = None
    if has_features:
        features = view.features[0].float().cpu()
        lower = math.ceil(rows / height * features.shape[1])
        right = math.ceil(columns / width * features.shape[2])
        features = features[:, :lower, :right]
    return Seen(labels.cpu().numpy().astype(np.int64), features)


def affinity(features: Tensor, place: tuple[float, float]) -> np.ndarray:
    """Cosine between the features at one place and those at every other.

    Args:
        features: Shape (D, h, w).
        place: Row and column as shares of the height and width, in [0, 1).

    Returns:
        Shape (h, w), in [-1, 1].

    Example:
        >>> features = torch.tensor([[[1.0, 0.0, -2.0]], [[0.0, 3.0, 0.0]]])
        >>> affinity(features, (0, 0)).round(3).tolist()
        [[1.0, 0.0, -1.0]]
    """
    unit = F.normalize(features, dim=0)
    row, column = (int(p * n) for p, n in zip(place, features.shape[1:]))
    return torch.einsum('d,dhw->hw', unit[:, row, column], unit).numpy()


def place_of(truth: np.ndarray, classes: int) -> tuple[float, float]:
    """A place to look at: inside the second most frequent class of a picture.

    Args:
        truth: Labels, (H, W).
        classes: Number of classes; labels beyond are ignored.

    Returns:
        Row and column as shares, of the pixel of that class nearest to the mean of
        them; the middle of a picture of one class.

    Example:
        >>> place_of(np.array([[0, 0, 0, 0], [0, 1, 0, 255]]), 2)
        (0.5, 0.25)
    """
    counts = np.bincount(truth[truth < classes].ravel(), minlength=classes)
    label = int(np.argsort(-counts, kind='stable')[1]) if classes > 1 else 0
    pixels = np.argwhere(truth == label)
    if not len(pixels):
        return 0.5, 0.5
    nearest = pixels[np.square(pixels - pixels.mean(0)).sum(1).argmin()]
    return float(nearest[0] / truth.shape[0]), float(nearest[1] / truth.shape[1])


def draw(rows: Sequence[Row], palette: Any, classes: Sequence[str]) -> Any:
    """A figure: picture, truth, every model's labels, and their affinities.

    Args:
        rows: One for each picture, all with the same models.
        palette: Colour of every class, RGB in 0 to 255.
        classes: Their names.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = list(rows[0].seen)
    with_features = [n for n in names if rows[0].seen[n].features is not None]
    columns = 2 + len(names) + len(with_features)
    height, width = rows[0].image.shape[:2]
    tall = 2.2 * height / width
    size = (2.2 * columns, tall * len(rows) + 0.9)
    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    colours = np.array([*palette, IGNORED], np.uint8)
    titles = ['picture', 'truth', *names, *(f'affinity: {n}' for n in with_features)]
    for axis, title in zip(grid[0], titles):
        axis.set_title(title, fontsize=9)
    shown = set()
    for axes, row in zip(grid, rows):
        for axis in axes:
            axis.set_axis_off()
        place = place_of(row.truth, len(classes))
        axes[0].imshow(row.image)
        _mark(axes[0], row.image.shape[:2], place)
        maps = [row.truth, *(seen.labels for seen in row.seen.values())]
        for axis, labels in zip(axes[1:], maps):
            labels = np.where(labels < len(classes), labels, len(classes))
            shown.update(np.unique(labels).tolist())
            axis.imshow(colours[labels], interpolation='nearest')
        for axis, name in zip(axes[2 + len(names) :], with_features):
            likeness: Any = row.seen[name].features
            likeness = affinity(likeness, place)
            drawn = axis.imshow(likeness, cmap='RdBu_r', vmin=-1, vmax=1)
            _mark(axis, likeness.shape, place)
    if with_features:
        bar = figure.colorbar(drawn, ax=grid[:, -1], shrink=0.9)
        bar.set_label('cosine with the marked place', fontsize=8)
    handles = [
        Patch(facecolor=_share(palette[i]), label=classes[i], edgecolor='grey')
        for i in sorted(shown - {len(classes)})
    ]
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=min(len(handles), 12),
        fontsize=8,
    )
    return figure


def _share(colour: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def _mark(axis: Any, size: Sequence[int], place: tuple[float, float]) -> None:
    y, x = (int(p * n) for p, n in zip(place, size))
    axis.plot(x, y, 'o', ms=6, mfc='#F0E442', mec='black')
