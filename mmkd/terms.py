"""What is done with one term: fitting it, checking its taps, switching it off."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import is_distributed
from torch import nn

from .dry_run import DryRun
from .taps import Tap


def prepare_loss(name: str, loss: Any, ours: DryRun, theirs: DryRun) -> None:
    """Fit a term to what its taps yielded in the dry runs.

    Args:
        name: Its log name, for messages.
        loss: The loss.
        ours: Dry run of the student.
        theirs: Dry run of the teacher.

    Raises:
        ValueError: If the two sides do not fit each other.
    """
    if loss.paths[1][0] in theirs.idle:
        raise ValueError(
            f'{name}: {loss.teacher_at!r} does not run when the teacher '
            'predicts (auxiliary heads run in training alone); tap another '
            'module of it by teacher_at'
        )
    student, teacher = (
        {path: tap.value for path, tap in seen.taps.items()} for seen in (ours, theirs)
    )
    teacher = loss.of_its_teacher(teacher)
    try:
        loss.prepare(student.get(loss.at), teacher.get(loss.teacher_at))
        loss.prepare_also(student, teacher)
    except (ValueError, TypeError) as error:
        reasons = [r for r in (ours.failure, theirs.failure) if r]
        because = f' ({"; ".join(reasons)})' if reasons else ''
        raise type(error)(f'{name}: {error}{because}') from error


def check_counts(student: Tap, teacher: Tap) -> None:
    """Raise ``RuntimeError`` unless both taps were called as often."""
    if not student.count:
        raise RuntimeError(f'{student.path!r} does not run while the student trains')
    if student.count != teacher.count:
        raise RuntimeError(
            f'{student.path!r} ran {student.count} times in the student but '
            f'{teacher.path!r} {teacher.count} times in the teacher'
        )


def silent(loss: nn.Module, student: nn.Module) -> torch.Tensor:
    """Zero for a term that is off, reaching its weights where DDP waits for them."""
    weights = [p for p in loss.parameters() if p.requires_grad]
    if weights and is_distributed():
        return sum(p.float().sum() for p in weights) * 0  # type: ignore[return-value]
    return next(student.parameters()).new_zeros(())
