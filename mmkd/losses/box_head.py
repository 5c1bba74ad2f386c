"""What the losses on classes and boxes of a head share, dense or of RoIs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..taps import HeadView
from .base import DistillLoss
from .head_rows import check_heads
from .precision import full_precision


class BoxHeadLoss(DistillLoss):
    """Base of the losses on the rows of a head: anchors, or the student's RoIs.

    A dense head (RPN, RetinaNet) is one stage; the box head of a two-stage detector
    has one, that of a cascade several.

    Args:
        at: Tapped head of the student: ``'rpn_head'``, ``'roi_head.bbox_head'``
            (every stage of a cascade; ``'roi_head.bbox_head.1'`` is one of them), or
            the ``'bbox_head'`` of a one-stage detector.
        loss_weight: Factor of the term.
        teacher_classes: For a teacher of other classes: what each class of the
            student, in order, is in the teacher: its index, or its name as the
            teacher's checkpoint has it. Every one must be in the teacher, and no two
            the same. ``None`` if the classes are the same.
        teacher_at: Tapped head of the teacher; ``at`` if not given.
    """

    def __init__(
        self,
        at: str,
        loss_weight: float,
        teacher_classes: Sequence[int | str] | None,
        teacher_at: str | None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        self.teacher_classes = teacher_classes
        self._class_map: list[int] | None = None

    def prepare(self, student: Any, teacher: Any) -> None:
        for side, view, path in (
            ('student', student, self.at),
            ('teacher', teacher, self.teacher_at),
        ):
            if not (isinstance(view, HeadView) and hasattr(view, 'stages')):
                raise ValueError(
                    f'the {side} must be tapped at a box head, such as '
                    "'rpn_head', 'roi_head.bbox_head' or the 'bbox_head' of a dense "
                    f'detector, but {path!r} yields {_described(view)}'
                )
            if view.obstacle:
                raise ValueError(
                    f'the {side} is tapped at {path!r}, but {view.obstacle}; only '
                    'feature losses can be used there'
                )
        ours, theirs = student.stages, teacher.stages
        names = f'{student.name} and the teacher {teacher.name}'
        dense = [hasattr(view, 'strides') for view in (student, teacher)]
        if dense[0] != dense[1]:
            raise ValueError(
                f'both heads must be dense or both of RoIs but the student has {names}'
            )
        if len(ours) != len(theirs):
            raise ValueError(
                'student and teacher must have the same number of stages but the '
                f'student has {names}, with {len(ours)} and {len(theirs)}'
            )
        if dense[0]:
            same_classes = self.teacher_classes is None
            check_heads(student, teacher, False, classes=same_classes, anchors=True)
        for s, t in zip(ours, theirs):
            if (s.is_sigmoid, s.has_background) != (t.is_sigmoid, t.has_background):
                raise ValueError(
                    'both heads must classify by sigmoids or both by a softmax but '
                    f'the student has {names}, of which one does either'
                )
        if self.needs_classes(teacher):
            self._class_map = self._mapped(ours[0].num_classes, teacher, names)

    def needs_classes(self, teacher: Any) -> bool:
        """Whether it matters what the teacher's classes are."""
        return True

    def _mapped(self, count: int, teacher: Any, names: str) -> list[int] | None:
        """Index in the teacher of every class of the student."""
        theirs = teacher.stages[0].num_classes
        if self.teacher_classes is None:
            if count != theirs:
                raise ValueError(
                    f'the student has {names}, with {count} and {theirs} classes; say '
                    'what each of the first is in the teacher with '
                    'teacher_classes=[...]'
                )
            if count > 1:  # an RPN's only one has no name
                self.class_names = teacher.class_names
            return None
        known = {name: index for index, name in enumerate(teacher.class_names or ())}
        indices: list[Any] = [known.get(c, c) for c in self.teacher_classes]  # type: ignore[call-overload]
        wrong = [c for c in indices if c not in range(theirs)]
        if wrong or len(indices) != count or len(set(indices)) != count:
            raise ValueError(
                f'teacher_classes must name {count} different classes, one for each '
                f"of the student's, by name ({', '.join(known) or 'none stored'}) or "
                f'by index below {theirs}, but is {list(self.teacher_classes)}'
            )
        return indices

    def stages(self, student: Any, teacher: Any) -> Iterator[tuple[Any, Any]]:
        """Stages of both heads side by side, those that ran."""
        return zip(student.stages, teacher.stages)

    def their_logits(self, ours: Any, theirs: Any, index: Tensor) -> Tensor:
        """The teacher's class logits of some rows, (n, K), in the student's order."""
        logits = theirs.classes_of(index)
        if self._class_map is None:
            return logits
        return _selected(logits, self._class_map, ours.has_background, ours.is_sigmoid)

    def their_labels(self, labels: Tensor) -> Tensor:
        """Classes of rows as the teacher counts them, (R,)."""
        if self._class_map is None:
            return labels
        return labels.new_tensor(self._class_map)[labels]


@full_precision
def _selected(
    logits: Tensor, classes: list[int], has_background: bool, is_sigmoid: bool
) -> Tensor:
    chosen = logits[:, classes]
    if not has_background:
        return chosen
    if is_sigmoid:
        return torch.cat([chosen, logits[:, -1:]], 1)
    # What the student has no class for is background to it.
    others = [c for c in range(logits.shape[1]) if c not in set(classes)]
    rest = logits[:, others].logsumexp(1, keepdim=True)
    return torch.cat([chosen, rest], 1)


def _described(view: Any) -> str:
    if view is None:
        return 'nothing: it does not run on a synthetic image'
    return getattr(view, 'name', f'a {type(view).__name__}')
