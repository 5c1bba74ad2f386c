"""Segmentors judged: IoU by class, and every picture by its mean IoU."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from .data import Data
from .drawing import enlarged
from .outcome import Outcome

#: Share of the label map's colour over the picture.
_OVERLAY = 0.65


class SegmentationJudge:
    """IoU in percent, as MMSegmentation counts it.

    Args:
        data: The validation pictures.
    """

    measure = 'IoU'
    score = (
        'IoU of a picture: the mean IoU over the classes that are in its truth, '
        'from 0 to 1, ignored pixels left out'
    )

    def __init__(self, data: Data) -> None:
        self.data = data
        self._ignored = getattr(data.dataset, 'ignore_index', 255)
        self._truth: dict[int, bytes] = {}
        self.begin()

    def begin(self) -> None:
        """Forget what was added."""
        self._seen: dict[int, bytes] = {}
        self._counts: dict[int, np.ndarray] = {}

    def add(self, index: int, sample: Any) -> None:
        """Take in the labels that a network predicts on a picture."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        truth = sample.gt_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        if truth.shape != labels.shape:
            raise ValueError(
                f'labels of {self.data.name(index)} have the shape {truth.shape} and '
                f'predictions {labels.shape}'
            )
        self._seen[index] = _packed(labels)
        self._truth.setdefault(index, _packed(truth))
        self._counts[index] = counts(
            labels, truth, len(self.data.classes), self._ignored
        )

    def outcome(self) -> Outcome:
        """IoU by class over all pictures, mean IoU by picture."""
        total = sum(self._counts.values())
        iou = _iou(np.asarray(total)) * 100
        by_class = {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(self.data.classes, iou)
        }
        scores = {}
        for index, one in self._counts.items():
            present = one[2] > 0
            score = np.nan_to_num(_iou(one))[present]
            scores[index] = float(score.mean()) if present.any() else 1.0
        return Outcome(by_class=by_class, scores=scores, seen=dict(self._seen))

    def draw_truth(self, index: int) -> tuple[np.ndarray, str]:
        """A picture with its labels."""
        labels = _unpacked(self._truth[index])
        names = self._names(labels)
        return self._overlaid(index, labels), f'classes: {names}'

    def draw(self, index: int, outcome: Outcome) -> tuple[np.ndarray, str]:
        """A picture with the labels that a network predicts."""
        labels = _unpacked(outcome.seen[index])
        truth = _unpacked(self._truth[index])
        valid = (truth != self._ignored) & (truth < len(self.data.classes))
        right = (labels == truth)[valid].mean() if valid.any() else 1.0
        return self._overlaid(index, labels), f'{right:.0%} of the pixels right'

    @property
    def palette(self) -> np.ndarray:
        """Colour of every class, RGB, (classes, 3)."""
        count = len(self.data.classes)
        if self.data.palette is not None and len(self.data.palette) >= count:
            return np.array(self.data.palette[:count], np.uint8)
        hues = np.arange(count) * 180 // max(count, 1)
        hsv = np.stack([hues, np.full(count, 200), np.full(count, 220)], 1)[None]
        return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)[0]

    def _names(self, labels: np.ndarray) -> str:
        present = [label for label in np.unique(labels) if label != self._ignored]
        names = [self.data.classes[i] for i in present if i < len(self.data.classes)]
        return ', '.join(names[:12]) + (' and more' if len(names) > 12 else '')

    def _overlaid(self, index: int, labels: np.ndarray) -> np.ndarray:
        picture = self.data.image(index)
        height, width = labels.shape
        if picture.shape[:2] != (height, width):
            picture = cv2.resize(picture, (width, height))
        colours = np.full((256, 3), 255, np.uint8)
        colours[: len(self.data.classes)] = self.palette[:, ::-1]
        drawn = cv2.addWeighted(colours[labels], _OVERLAY, picture, 1 - _OVERLAY, 0.0)
        return enlarged(drawn)[0]


def counts(
    labels: np.ndarray, truth: np.ndarray, classes: int, ignored: int = 255
) -> np.ndarray:
    """Pixels of every class: in both, predicted, true; shape (3, classes).

    Example:
        >>> counts(np.array([0, 1, 1]), np.array([0, 0, 255]), 2).tolist()
        [[1, 0], [1, 1], [2, 0]]
    """
    valid = (truth != ignored) & (truth < classes)
    labels, truth = labels[valid], truth[valid]
    both = labels[labels == truth]
    return np.stack(
        [np.bincount(x, minlength=256)[:classes] for x in (both, labels, truth)]
    )


def _iou(one: np.ndarray) -> np.ndarray:
    union = one[1] + one[2] - one[0]
    return np.divide(one[0], union, out=np.full(len(union), np.nan), where=union > 0)


def _packed(labels: np.ndarray) -> bytes:
    return cv2.imencode('.png', labels)[1].tobytes()


def _unpacked(png: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED))
