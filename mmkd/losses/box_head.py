"""What the losses on classes and boxes of a head share, dense or of RoIs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ..taps import HeadView
from .base import DistillLoss
from .class_map import ClassMap
from .head_rows import check_heads


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
            student, in order, is in the teacher: its index, its name as the teacher's
            checkpoint has it, or ``None`` if the teacher does not know it; see
            :class:`~mmkd.losses.class_map.ClassMap`. Not given if the classes are
            the same.
        teacher_at: Tapped head of the teacher; ``at`` if not given.
    """

    def __init__(
        self,
        at: str,
        loss_weight: float,
        teacher_classes: Sequence[int | str | None] | None,
        teacher_at: str | None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        self.teacher_classes = teacher_classes
        self._class_map: ClassMap | None = None

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

    def _mapped(self, count: int, teacher: Any, names: str) -> ClassMap | None:
        theirs = teacher.stages[0].num_classes
        # An RPN knows objects only, whatever the classes of its teacher are.
        if self.teacher_classes is not None and (count, theirs) != (1, 1):
            known = ClassMap(self.teacher_classes, count, theirs, teacher.class_names)
            one = teacher.stages[0]
            if known.is_partial and one.is_sigmoid and one.has_background:
                raise ValueError(
                    'teacher_classes must name every class where the background has a '
                    f'sigmoid of its own, as in the {names}: it means "none of the '
                    'classes", which are others; name them all, or use a softmax'
                )
            return known
        if count != theirs:
            raise ValueError(
                f'the student has {names}, with {count} and {theirs} classes; say '
                'what each of the first is in the teacher with teacher_classes=[...]'
            )
        if count > 1:  # an RPN's only one has no name
            self.class_names = teacher.class_names
        return None

    def stages(self, student: Any, teacher: Any) -> Iterator[tuple[Any, Any]]:
        """Stages of both heads side by side, those that ran."""
        return zip(student.stages, teacher.stages)

    def logits(self, ours: Any, theirs: Any, index: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits of some rows of both sides, (n, K), of the same classes.

        Args:
            ours: Stage of the student.
            theirs: The same stage of the teacher.
            index: Rows, (n,).
        """
        s, t = ours.classes_of(index), theirs.classes_of(index)
        if self._class_map is None:
            return s, t
        return self._class_map.alike(s, t, ours.is_sigmoid, ours.has_background)


def _described(view: Any) -> str:
    if view is None:
        return 'nothing: it does not run on a synthetic image'
    return getattr(view, 'name', f'a {type(view).__name__}')
