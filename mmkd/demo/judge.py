"""Compares detections with the digits of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_SCORE = 0.3
MIN_IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """The boxes shown for one picture, best score first.

    ``boxes`` are x, y, width, height, (n, 4); ``labels``, ``scores`` and ``right``
    (n, ); ``missed`` counts the digits that no box found.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    missed: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where nothing is to be found."""
        total = 2 * self.right.sum() + (~self.right).sum() + self.missed
        return float(2 * self.right.sum() / total) if total else 1.0


def judge(truth: Sequence[Mapping], detections: Sequence[Mapping]) -> Judged:
    """Compare the detections of one picture with its digits.

    Of detections that overlap (IoU of at least 0.5), whatever their classes, only the
    best is kept: one reading per place. Scores below 0.3 are dropped. What is left is
    right if it has the class of a digit that no better box has found yet, and an IoU
    of at least 0.5 with it.

    Args:
        truth: COCO annotations.
        detections: COCO results.

    Example:
        >>> one = dict(bbox=[0, 0, 10, 10], category_id=3)
        >>> two = dict(bbox=[20, 0, 10, 10], category_id=3)
        >>> judge([one], [dict(one, score=0.9), dict(two, score=0.5)]).right
        array([ True, False])
    """
    shown: list[Mapping] = []
    for detection in sorted(detections, key=lambda d: -d['score']):
        if detection['score'] >= MIN_SCORE and not any(
            box_iou(detection['bbox'], d['bbox']) >= MIN_IOU for d in shown
        ):
            shown.append(detection)
    left = list(truth)
    right = []
    for detection in shown:
        fits = [
            t
            for t in left
            if t['category_id'] == detection['category_id']
            and box_iou(t['bbox'], detection['bbox']) >= MIN_IOU
        ]
        right.append(bool(fits))
        if fits:
            left.remove(max(fits, key=lambda t: box_iou(t['bbox'], detection['bbox'])))
    return Judged(
        boxes=np.array([d['bbox'] for d in shown], float).reshape(-1, 4),
        labels=np.array([d['category_id'] - 1 for d in shown], int),
        scores=np.array([d['score'] for d in shown], float),
        right=np.array(right, bool),
        missed=len(left),
    )


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes x, y, width, height.

    Example:
        >>> box_iou([0, 0, 2, 1], [1, 0, 2, 1])
        0.3333333333333333
    """
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def most_different(
    alone: Mapping[int, Judged], distilled: Mapping[int, Judged], number: int
) -> list[int]:
    """Pictures on which two models differ most, whichever of them is better.

    Args:
        alone: By image id.
        distilled: By image id.
        number: How many to choose.

    Returns:
        Image ids by falling difference of F1; the lower id first where it is equal.
    """
    return sorted(alone, key=lambda i: (-abs(alone[i].f1 - distilled[i].f1), i))[
        :number
    ]
