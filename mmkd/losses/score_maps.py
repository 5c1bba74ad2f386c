"""Maps of scores or features that the losses for segmentation compare."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..taps import HeadView
from .base import levels


def score_maps(value: Any) -> list[Tensor]:
    """Class logits per pixel, (N, C, H, W): of a decode head, or as tapped.

    Args:
        value: What a tap yielded.
    """
    return [value.score_map] if hasattr(value, 'score_map') else levels(value)


def feature_maps(value: Any) -> list[Tensor]:
    """Features per pixel, (N, D, H, W): a decode head's before it classifies.

    Args:
        value: What a tap yielded.
    """
    return [value.features] if hasattr(value, 'features') else levels(value)


def resized(teacher: Tensor, student: Tensor) -> Tensor:
    """The teacher's map in the student's height and width, bilinearly.

    The centres of the cells are matched (``align_corners=False``).
    """
    if teacher.shape[2:] == student.shape[2:]:
        return teacher
    dtype = teacher.dtype if teacher.dtype.itemsize > 2 else None
    size = student.shape[2:]
    maps = teacher if dtype else teacher.float()
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)


def check_maps(
    student: Any, teacher: Any, at: str, maps: list[Tensor], others: list[Tensor]
) -> None:
    """Raise ``ValueError`` unless both sides have maps per pixel, equally many.

    Args:
        student: What the student's tap yielded, for messages.
        teacher: The same of the teacher.
        at: Path of the student's tap.
        maps: The student's maps.
        others: The teacher's.
    """
    for side, value, found in (
        ('student', student, maps),
        ('teacher', teacher, others),
    ):
        for x in found:
            if x.dim() != 4:
                kind = (
                    type(value.module).__name__ if isinstance(value, HeadView) else at
                )
                raise ValueError(
                    f'{side}: maps must have shape (N, C, H, W) but {kind} yields '
                    f'{tuple(x.shape)}; tap a module that yields one vector per pixel'
                )
    if len(maps) != len(others):
        raise ValueError(
            'student and teacher must yield the same number of maps but yield '
            f'{len(maps)} and {len(others)}'
        )


def check_classes(student: Tensor, teacher: Tensor) -> None:
    """Raise ``ValueError`` unless both score the same number of classes."""
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            'student and teacher must score the same classes but score '
            f'{student.shape[1]} and {teacher.shape[1]}; choose a teacher that was '
            'trained on the data of the student, or a loss on features'
        )
