"""What an evaluation of one network gives, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Outcome:
    """How good a network is, by class, by size and by picture.

    Args:
        metrics: What the run's own evaluator says.
        by_class: Name of a class -> its AP or IoU; ``None`` where there is none of it.
        by_size: ``'small'``, ``'medium'``, ``'large'`` -> AP; nothing for segmentors.
        scores: Index of a picture -> score of what was found on it, 0 to 1.
        seen: Index of a picture -> what was found, for :meth:`Judge.draw`.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float | None] = field(default_factory=dict)
    by_size: dict[str, float | None] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    seen: dict[int, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Judges the predictions of one task.

    Attributes:
        measure: What :attr:`Outcome.by_class` is.
        score: What :attr:`Outcome.scores` are, in one sentence.
    """

    measure: str
    score: str

    def begin(self) -> None:
        """Forget what was added."""

    def add(self, index: int, sample: Any) -> None:
        """Take in what a network predicts on a picture."""

    def outcome(self) -> Outcome:
        """Judge what was added."""

    def draw_truth(self, index: int) -> tuple[np.ndarray, str]:
        """A picture with its truth, BGR, and what it shows in words."""

    def draw(self, index: int, outcome: Outcome) -> tuple[np.ndarray, str]:
        """A picture with what a network found, BGR, and the same in words."""


def share_closed(student: Any, distilled: Any, teacher: Any) -> float | None:
    """Share of the gap between student and teacher that distilling closed.

    Args:
        student: Value of the student alone, or ``None``.
        distilled: Of the distilled one.
        teacher: Of the teacher.

    Returns:
        1 where the distilled student is as good as the teacher, below 0 where it is
        worse than alone; ``None`` where the teacher is not better than the student.

    Example:
        >>> share_closed(0.25, 0.5, 0.75), share_closed(0.5, 0.6, 0.5)
        (0.5, None)
    """
    if None in (student, distilled, teacher) or teacher <= student:
        return None
    return (distilled - student) / (teacher - student)
