"""Maps of scores or features that the losses for segmentation compare."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import paired_levels
from .precision import HALF


def paired_features(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    """Features per pixel, (N, D, H, W), of both sides.

    Args:
        student: What the student's tap yielded. Of a decode head its features before
            it classifies.
        teacher: The same of the teacher.

    Raises:
        ValueError: If the numbers of maps differ.
    """
    return paired_levels(
        *(x.features if hasattr(x, 'features') else x for x in (student, teacher))
    )


def resized(teacher: Tensor, student: Tensor) -> Tensor:
    """The teacher's map in the student's height and width, bilinearly.

    The centres of the cells are matched (``align_corners=False``).
    """
    if teacher.shape[2:] == student.shape[2:]:
        return teacher
    maps = teacher.float() if teacher.dtype in HALF else teacher
    size = student.shape[2:]
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)


def check_maps(pairs: list[tuple[Tensor, Tensor]], at: str, teacher_at: str) -> None:
    """Raise ``ValueError`` unless both sides yield maps.

    Args:
        pairs: The student's and the teacher's.
        at: Path of the student's tap.
        teacher_at: Path of the teacher's.
    """
    for pair in pairs:
        for path, x in zip((at, teacher_at), pair):
            if x.dim() != 4:
                raise ValueError(
                    f'maps must have shape (N, C, H, W) but {path!r} yields '
                    f'{tuple(x.shape)}; tap a module that yields a vector per pixel'
                )


def scored_alike(
    student: Any, teacher: Any, at: str, teacher_at: str
) -> list[tuple[Tensor, Tensor]]:
    """Score maps of both sides, which score the same number of classes.

    Args:
        student: What the student's tap yielded.
        teacher: The same of the teacher.
        at: Path of the student's tap.
        teacher_at: Path of the teacher's.

    Raises:
        ValueError: If they are no maps, or of other classes.
    """
    pairs = paired_levels(student, teacher)
    check_maps(pairs, at, teacher_at)
    for s, t in pairs:
        if s.shape[1] != t.shape[1]:
            raise ValueError(
                'student and teacher must score the same classes but score '
                f'{s.shape[1]} and {t.shape[1]}; choose a teacher that was trained on '
                "the student's data, or a loss on features"
            )
    return pairs
