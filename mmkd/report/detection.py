"""Detectors judged: AP by class and size, and every picture by its boxes."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from .data import Data
from .drawing import draw_box, enlarged
from .outcome import Outcome

#: IoU from which a box is where an object is.
MIN_IOU = 0.5
SIZES = ('all', 'small', 'medium', 'large')
# Okabe and Ito's colours, as BGR.
#: Best boxes whose label is drawn where they are wrong.
_LABELLED = 12
_TRUTH, _RIGHT, _WRONG = (66, 228, 240), (115, 158, 0), (0, 94, 213)


@dataclass
class Found:
    """Boxes in pixels of the picture, (n, 4) as x1, y1, x2, y2, best first."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def match(found: Found, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which objects detections find, each at most one.

    Args:
        found: Detections, best first.
        boxes: True boxes, (m, 4).
        labels: Their classes, (m,).

    Returns:
        For each detection the object of its class with an IoU of at least 0.5 that
        no better one has found; -1 where there is none.

    Example:
        >>> box = np.array([[0.0, 0, 10, 10]])
        >>> found = Found(np.repeat(box, 2, 0), np.array([3, 3]), np.array([0.9, 0.8]))
        >>> match(found, box, np.array([3]))
        array([ 0, -1])
    """
    taken = np.full(len(found.boxes), -1)
    if not len(boxes) or not len(found.boxes):
        return taken
    iou = box_iou(torch.tensor(found.boxes), torch.tensor(boxes)).double().numpy()
    iou[found.labels[:, None] != labels[None]] = 0
    for index in range(len(taken)):
        best = iou[index].argmax()
        if iou[index, best] >= MIN_IOU:
            taken[index] = best
            iou[:, best] = 0
    return taken


class DetectionJudge:
    """AP through pycocotools, and F1 of every picture.

    Args:
        data: The validation pictures.
        min_score: Score from which a box counts in a picture and is drawn.
    """

    measure = 'AP'

    def __init__(self, data: Data, min_score: float = 0.3) -> None:
        self.data = data
        self.min_score = min_score
        self.score = (
            'F1 of a picture: the harmonic mean of precision and recall of the boxes '
            f'with a score of at least {min_score:g}, each of which is right if it has '
            f'the class of an object and an IoU of at least {MIN_IOU:g} with it that '
            'no better box has found'
        )
        self._found: dict[int, Found] = {}
        self._ids: dict[int, Any] = {}
        self._truth = self._ground_truth()

    def begin(self) -> None:
        """Forget what was added."""
        self._found = {}

    def add(self, index: int, sample: Any) -> None:
        """Take in what a network predicts on a picture."""
        found = sample.pred_instances
        boxes = found.bboxes
        boxes = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
        order = found.scores.argsort(descending=True)
        self._found[index] = Found(
            boxes[order].float().cpu().numpy(),
            found.labels[order].cpu().numpy(),
            found.scores[order].float().cpu().numpy(),
        )
        self._ids[index] = sample.img_id

    def outcome(self) -> Outcome:
        """AP by class and size, F1 by picture."""
        precision = self._precision()
        outcome = Outcome(seen=dict(self._found))
        for label, name in enumerate(self.data.classes):
            outcome.by_class[name] = _mean(precision[:, :, label, 0])
        for place, size in enumerate(SIZES):
            outcome.by_size[size] = _mean(precision[:, :, :, place])
        for index, found in self._found.items():
            shown = self._shown(found)
            boxes, _ = self.truth(index)
            right = int((self._match(index, shown) >= 0).sum())
            total = len(shown.boxes) + len(boxes)
            outcome.scores[index] = 2 * right / total if total else 1.0
        return outcome

    def truth(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (m, 4) and classes of a picture's objects, crowds left out."""
        instances = [
            one
            for one in self.data.dataset.get_data_info(index).get('instances', ())
            if not one.get('ignore_flag')
        ]
        boxes = np.array([one['bbox'] for one in instances], np.float32)
        labels = np.array([one['bbox_label'] for one in instances], np.int64)
        return boxes.reshape(-1, 4), labels

    def draw_truth(self, index: int) -> tuple[np.ndarray, str]:
        """A picture with its objects."""
        picture, factor = enlarged(self.data.image(index))
        boxes, labels = self.truth(index)
        for box, label in zip(boxes, labels):
            draw_box(picture, box * factor, self._name(label), _TRUTH)
        counts = Counter(self._name(label) for label in labels)
        named = ', '.join(f'{count} × {name}' for name, count in counts.most_common(6))
        plural = 'object' if len(boxes) == 1 else 'objects'
        return picture, f'{len(boxes)} {plural}' + (f': {named}' if named else '')

    def draw(self, index: int, outcome: Outcome) -> tuple[np.ndarray, str]:
        """A picture with what a network found, right and wrong."""
        picture, factor = enlarged(self.data.image(index))
        shown = self._shown(outcome.seen[index])
        taken = self._match(index, shown)
        for place in reversed(range(len(taken))):
            is_right = taken[place] >= 0
            text = f'{self._name(shown.labels[place])} {shown.scores[place]:.2f}'
            text *= bool(is_right or place < _LABELLED)
            colour = _RIGHT if is_right else _WRONG
            draw_box(picture, shown.boxes[place] * factor, text, colour, not is_right)
        right = int((taken >= 0).sum())
        missed = len(self.truth(index)[0]) - right
        return picture, f'{right} right, {len(taken) - right} wrong, {missed} missed'

    def _name(self, label: int) -> str:
        names = self.data.classes
        return names[label] if label < len(names) else str(label)

    def _shown(self, found: Found) -> Found:
        keep = found.scores >= self.min_score
        return Found(found.boxes[keep], found.labels[keep], found.scores[keep])

    def _match(self, index: int, shown: Found) -> np.ndarray:
        return match(shown, *self.truth(index))

    def _ground_truth(self) -> Any:
        """The annotations as pycocotools reads them, with its category of a label."""
        from pycocotools.coco import COCO

        dataset = self.data.dataset
        file = _coco_file(self.data.cfg.get('val_evaluator'))
        categories = getattr(dataset, 'cat_ids', None)
        with contextlib.redirect_stdout(io.StringIO()):
            if file and categories:
                return COCO(file), list(categories)
            made = COCO()
            made.dataset = _as_coco(dataset, len(self.data.classes))
            made.createIndex()
        return made, list(range(1, len(self.data.classes) + 1))

    def _precision(self) -> np.ndarray:
        """(IoUs, recalls, classes, sizes); -1 where there is no object."""
        from pycocotools.cocoeval import COCOeval

        truth, categories = self._truth
        results = [
            dict(
                image_id=self._ids[index],
                category_id=categories[label],
                bbox=[*map(float, (*box[:2], *(box[2:] - box[:2])))],
                score=float(score),
            )
            for index, found in self._found.items()
            for box, label, score in zip(found.boxes, found.labels, found.scores)
            if label < len(categories)
        ]
        if not results:
            return _nothing_found(truth, categories, list(self._ids.values()))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
            evaluation.params.imgIds = [self._ids[index] for index in self._found]
            evaluation.params.catIds = categories
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval['precision'][..., -1]


def _nothing_found(truth: Any, categories: Sequence[int], ids: list) -> np.ndarray:
    """Precision of a network that finds nothing: 0 where there are objects."""
    precision = np.full((10, 101, len(categories), 4), -1.0)
    ranges = ((0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10))  # COCO's
    for one in truth.loadAnns(truth.getAnnIds(imgIds=ids, iscrowd=False)):
        if one['category_id'] in categories:
            label = list(categories).index(one['category_id'])
            for place, (low, high) in enumerate(ranges):
                if low <= one['area'] <= high:
                    precision[:, :, label, place] = 0
    return precision


def _mean(precision: np.ndarray) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _coco_file(evaluators: Any) -> str | None:
    entries = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for entry in entries:
        if entry and 'Coco' in str(entry.get('type')) and entry.get('ann_file'):
            return entry['ann_file']
    return None


def _as_coco(dataset: Any, classes: int) -> dict[str, Any]:
    """Any detection data set in COCO's form; the area of an object is its box's."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        images.append(dict(id=info['img_id']))
        for one in info.get('instances', ()):
            x1, y1, x2, y2 = map(float, one['bbox'])
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=info['img_id'],
                    category_id=one['bbox_label'] + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=int(one.get('ignore_flag') or 0),
                )
            )
    categories = [dict(id=label + 1) for label in range(classes)]
    return dict(images=images, annotations=annotations, categories=categories)
