"""A picture of what localization distillation transfers: distributions of edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor
from torchvision.ops import batched_nms

from ..batch import Batch
from ..fileio import replacing
from ..taps import record
from .views import DenseHeadView

EDGES = ('left', 'top', 'right', 'bottom')
#: Okabe and Ito's colours, which people with colour blindness tell apart.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
STUDENT, TEACHER = '#CC79A7', '#333333'


def edge_distributions(
    model: Any, image: str | Path, cfg: Config, objects: int = 3, at: str = 'bbox_head'
) -> dict[str, Any]:
    """What student and teacher know about the edges of the best objects found.

    Args:
        model: A detector with a teacher, on any device.
        image: Path of a picture.
        cfg: The config whose test pipeline reads it.
        objects: Number of objects, those with the student's highest scores after
            NMS (IoU 0.5).
        at: Path of the dense head in both networks.

    Returns:
        ``image`` (H, W, 3) uint8 RGB; ``boxes`` (K, 4) of the student in pixels;
        ``scores`` (K,); ``labels`` (K,); ``student`` and ``teacher`` (K, 4, bins),
        probabilities; ``pixels`` (K, bins), distance of each bin from the prior's
        centre.

    Raises:
        ValueError: If a head predicts no distributions, or the teacher is cached.
    """
    if model.distiller.teacher.model is None:
        raise ValueError('a picture of the teacher needs a live one, and it is cached')
    inputs, batch = _batch(model, image, cfg)
    was_training = model.training
    try:
        with torch.no_grad(), record(model.eval(), {at: DenseHeadView}) as taps:
            model(batch.inputs, batch.data_samples, mode='tensor')
    finally:
        model.train(was_training)
    student: Any = taps[at]
    teacher: Any = model.distiller.teacher.run(batch, {at: DenseHeadView})[at]
    score, label = student.scores.max(1)
    boxes = student.expected_boxes
    best = batched_nms(boxes, score, torch.zeros_like(label), 0.5)[:objects]
    sizes = torch.cat(
        [
            torch.tensor(size).repeat(len(prior) // len(size))
            for size, prior in zip(student.bin_sizes, student.priors)
        ]
    )
    steps = torch.arange(student.bins)
    return dict(
        image=inputs,
        boxes=boxes[best].cpu(),
        scores=score[best].cpu(),
        labels=label[best].cpu(),
        student=student.edge_rows[best].float().softmax(2).cpu(),
        teacher=teacher.edge_rows[best].float().softmax(2).cpu(),
        pixels=sizes[best.cpu()][:, None] * steps,
    )


def draw_edge_distributions(seen: Mapping[str, Any], out: str | Path) -> Path:
    """Draw what :func:`edge_distributions` found.

    Args:
        seen: Its result.
        out: Path of the picture, PNG or whatever matplotlib can write.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count = len(seen['boxes'])
    figure = Figure(figsize=(15, max(2.1 * count + 1, 4.5)), layout='constrained')
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, 1.7])
    left, right = parts
    axis = left.subplots()
    axis.imshow(seen['image'])
    axis.set_axis_off()
    axis.set_title("the student's best objects")
    for index, (x1, y1, x2, y2) in enumerate(seen['boxes'].tolist()):
        colour = COLOURS[index % len(COLOURS)]
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=2.5)
        )
        text = f'{index + 1}: {seen["scores"][index]:.2f}'
        axis.text(x1, y1, text, color='white', backgroundcolor=colour, va='bottom')
    right.suptitle('probability of each edge over its distance from the centre, pixels')
    plots = right.subplots(max(count, 1), 4, squeeze=False, sharey='row')
    for row in range(count):
        for column, edge in enumerate(EDGES):
            _draw_edge(plots[row][column], seen, row, column)
            if row == 0:
                plots[row][column].set_title(edge)
        plots[row][0].set_ylabel(
            f'{row + 1}', color=COLOURS[row % len(COLOURS)], rotation=0, fontsize=16
        )
    if count:
        plots[0][0].legend(frameon=False)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format=path.suffix[1:] or 'png')
    return path


def _draw_edge(axis: Any, seen: Mapping[str, Any], row: int, column: int) -> None:
    pixels = seen['pixels'][row].tolist()
    width = pixels[1] - pixels[0]
    teacher = seen['teacher'][row, column].tolist()
    student = seen['student'][row, column].tolist()
    axis.bar(pixels, teacher, width * 0.9, color=TEACHER, alpha=0.35, label='teacher')
    axis.step(pixels, student, where='mid', color=STUDENT, lw=2, label='student')
    divergence = _divergence(seen['teacher'][row, column], seen['student'][row, column])
    axis.text(
        0.98,
        0.95,
        f'KL {divergence:.2f}',
        transform=axis.transAxes,
        ha='right',
        va='top',
    )
    for side in ('top', 'right'):
        axis.spines[side].set_visible(False)


def _divergence(teacher: Tensor, student: Tensor) -> float:
    return (teacher * (teacher.log() - student.log())).nan_to_num(0.0).sum().item()


def _batch(model: Any, image: str | Path, cfg: Config) -> tuple[Any, Batch]:
    """A picture as it is shown, and as the networks get it."""
    if not Path(image).is_file():
        raise FileNotFoundError(f'picture {str(image)!r} does not exist')
    pipeline = [
        step for step in get_test_pipeline_cfg(cfg) if step['type'] != 'LoadAnnotations'
    ]
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = Compose(pipeline)(dict(img_path=str(image), img_id=0))
    shown = sample['inputs'].permute(1, 2, 0)
    if not any(step.get('channel_order') == 'rgb' for step in pipeline):
        shown = shown.flip(2)  # read as BGR, whatever the network wants
    data = model.data_preprocessor(pseudo_collate([sample]), False)
    return shown.numpy(), Batch(data['inputs'], data['data_samples'])
