"""What networks compute on one picture: feature maps and edge distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..side_by_side import activations
from ..taps import Tap, record, resolve
from .data import Data
from .run import Run


def tap_paths(run: Run, student: nn.Module) -> dict[str, tuple[str, str]]:
    """Where feature maps are shown: where the losses tap, or the neck.

    Args:
        run: The distilled run.
        student: Its network.

    Returns:
        Title -> path in the student, path in the teacher.
    """
    found: dict[str, tuple[str, str]] = {}
    losses: Any = run.cfg.model.losses if run.is_distilled else {}
    for name, loss in losses.items():
        if not loss:  # switched off by a config that inherits
            continue
        at = loss.get('at')
        theirs = loss.get('teacher_at') or at
        if not (isinstance(at, str) and isinstance(theirs, str)):
            continue
        # A head itself returns many maps, which are no features.
        if not at.rpartition('.')[2].endswith('head'):
            found[f'{at} ({name})'] = (at, theirs)
    if not any(at in ('neck', 'backbone') for at, _ in found.values()):
        usual = 'neck' if getattr(student, 'neck', None) is not None else 'backbone'
        found[f'{usual} (no loss taps it)'] = (usual, usual)
    return found


def activation_maps(
    networks: Mapping[str, tuple[Any, str]], data: Data, index: int
) -> dict[str, list[np.ndarray]]:
    """Mean absolute activations over the channels, level by level.

    Args:
        networks: Who -> network and path of the module in it.
        data: The pictures.
        index: Which one.

    Returns:
        Who -> maps (h, w) of the picture without padding; those that have none
        are left out.
    """
    found = {}
    for who, (network, path) in networks.items():
        resolve(network, path)
        taps, inputs, sample = run_on(network, {path: Tap}, data, index)
        rows, columns = (s / p for s, p in zip(sample.img_shape, inputs.shape[2:]))
        maps = activations(taps[path], (rows, columns))
        if maps:
            found[who] = maps
    return found


@torch.no_grad()
def run_on(
    network: Any, tap_types: Mapping[str, type[Tap]], data: Data, index: int
) -> tuple[dict[str, Any], Tensor, Any]:
    """Run a network on one picture.

    Args:
        network: In eval mode.
        tap_types: Path -> how to tap it.
        data: The pictures.
        index: Which one.

    Returns:
        Path -> tap, the inputs, and the data sample.
    """
    batch = pseudo_collate([data.dataset[index]])
    with DefaultScope.overwrite_default_scope(data.scope):
        ready = network.data_preprocessor(batch, False)
        with record(network, tap_types) as taps:
            network(ready['inputs'], ready['data_samples'], mode='tensor')
    return taps, ready['inputs'], ready['data_samples'][0]


def edge_rows(
    networks: Mapping[str, Any],
    chooser: str,
    data: Data,
    judge: Any,
    index: int,
    objects: int = 2,
) -> list[dict[str, Any]]:
    """Distributions of the edges of objects that the distilled student finds.

    All networks are read at the prior by which one of them finds the object best.

    Args:
        networks: Who -> detector.
        chooser: Which of them chooses the priors.
        data: The pictures.
        judge: Knows the objects.
        index: Which picture.
        objects: At most so many.

    Returns:
        For each object ``label``, ``score``, ``truth`` (4,) as distances from the
        prior's centre in pixels, and for each network ``pixels`` (bins,) and
        ``chances`` (4, bins). Nothing if the chooser predicts none.
    """
    from ..det.views import DenseHeadView

    views = {}
    for who, network in networks.items():
        head = getattr(network, 'bbox_head', None)
        if head is None:
            continue
        taps, _, sample = run_on(network, {'bbox_head': DenseHeadView}, data, index)
        view = taps['bbox_head']
        if view.obstacle is None and view.bins is not None:
            views[who] = view
    if chooser not in views:
        return []
    view = views[chooser]
    priors = torch.cat(view.priors)
    views = {
        who: other
        for who, other in views.items()
        if len(p := torch.cat(other.priors)) == len(priors) and torch.equal(p, priors)
    }
    return [
        dict(
            label=label,
            score=score,
            truth=_distances(priors[row], box).tolist(),
            pixels={who: _bin_pixels(v, row) for who, v in views.items()},
            chances={
                who: v.edge_rows[row].float().softmax(1).tolist()
                for who, v in views.items()
            },
        )
        for row, label, score, box in _found(view, judge, index, sample, objects)
    ]


def _found(
    view: Any, judge: Any, index: int, sample: Any, objects: int
) -> list[tuple[int, int, float, Tensor]]:
    """For each object its best row: IoU times the score of its class; best first."""
    boxes, labels = judge.truth(index)
    known = labels < view.scores.shape[1]
    boxes, labels = boxes[known], labels[known]
    if not len(boxes):
        return []
    down, right = (n / o for n, o in zip(sample.img_shape[:2], sample.ori_shape[:2]))
    predicted = view.expected_boxes
    truth = predicted.new_tensor(boxes * [right, down, right, down])
    score = view.scores[:, torch.tensor(labels, device=predicted.device)]
    value, rows = (box_iou(predicted, truth) * score).max(0)
    best = value.argsort(descending=True)[:objects].tolist()
    return [
        (int(rows[i]), int(labels[i]), float(score[rows[i], i]), truth[i]) for i in best
    ]


def _distances(prior: Tensor, box: Tensor) -> Tensor:
    x, y = ((prior[:2] + prior[2:]) / 2).tolist()
    return torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])


def _bin_pixels(view: Any, row: int) -> list[float]:
    for prior, sizes in zip(view.priors, view.bin_sizes):
        if row < len(prior):
            return [sizes[row % len(sizes)] * i for i in range(view.bins)]
        row -= len(prior)
    raise IndexError(row)
