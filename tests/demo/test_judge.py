"""Which detections are right, and which pictures are shown."""

from __future__ import annotations

import pytest

from mmkd.demo.judge import box_iou, judge, most_different


def box(x: float, label: int = 1, score: float = 0.9) -> dict:
    return dict(bbox=[x, 0, 10, 10], category_id=label, score=score)


def test_box_iou():
    # 10x10 boxes, 4 apart: 60 shared of 140.
    assert box_iou([0, 0, 10, 10], [4, 0, 10, 10]) == pytest.approx(60 / 140)
    assert box_iou([0, 0, 10, 10], [10, 0, 10, 10]) == 0
    assert box_iou([0, 0, 10, 10], [2, 2, 5, 5]) == pytest.approx(0.25)


def test_right_needs_class_and_place():
    truth = [box(0, 1), box(40, 2), box(80, 3)]
    detections = [
        box(0, 1, 0.8),
        box(40, 3, 0.7),  # another class
        box(86, 3, 0.5),  # IoU 0.25
        box(80, 3, 0.2),  # score too low to be shown
    ]
    judged = judge(truth, detections)
    assert judged.scores.tolist() == [0.8, 0.7, 0.5]
    assert judged.labels.tolist() == [0, 2, 2]
    assert judged.right.tolist() == [True, False, False]
    assert judged.missed == 2
    assert judged.f1 == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))


def test_one_reading_per_place():
    truth = [box(0, 1)]
    detections = [box(0, 1, 0.6), box(1, 4, 0.8), box(2, 1, 0.5), box(5, 2, 0.4)]
    judged = judge(truth, detections)
    # IoU with the best, at 1: 9/11, 9/11, and 6/14 for the last, which stays.
    assert judged.scores.tolist() == [0.8, 0.4]
    assert judged.labels.tolist() == [3, 1]
    assert judged.right.tolist() == [False, False]
    assert judged.missed == 1


def test_one_box_finds_the_digit_that_fits_best():
    judged = judge([box(0), box(4)], [box(4, score=0.9), box(0, score=0.8)])
    assert judged.right.tolist() == [True, True]
    assert judged.missed == 0


def test_nothing_to_find_and_nothing_found():
    assert judge([], []).f1 == 1
    assert judge([box(0)], []).f1 == 0
    assert judge([], [box(0)]).f1 == 0
    assert judge([box(0)], []).boxes.shape == (0, 4)


def test_most_different_looks_both_ways():
    perfect, nothing = judge([box(0)], [box(0)]), judge([box(0)], [])
    half = judge([box(0)], [box(0), box(40)])
    alone = {1: perfect, 2: perfect, 3: nothing, 4: half}
    distilled = {1: perfect, 2: nothing, 3: perfect, 4: perfect}
    assert most_different(alone, distilled, 3) == [2, 3, 4]
