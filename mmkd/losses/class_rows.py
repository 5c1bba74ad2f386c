"""What the losses share that compare rows of class logits, of which one is true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..batch import Batch
from .base import paired_levels
from .box_head import BoxHeadLoss
from .class_map import class_map_of
from .score_maps import resized, scored_alike


class ClassRows(NamedTuple):
    """Rows of one stage of a head, or of one score map.

    Args:
        student: Class logits, (R, K).
        teacher: The same of the teacher.
        labels: The true class of every row, (R,); ``None`` where nobody knows it.
        weight: Weight of every row, (R,).
        avg_factor: What the head's own loss is divided by, its mean over ranks; the
            number of rows in a score map.
        share: Factor of the stage.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None
    weight: Tensor
    avg_factor: float
    share: float


class ClassRowsLoss(BoxHeadLoss):
    """Base of the losses on rows that are classified by a softmax.

    Of a box head the rows are the RoIs that the student sampled, which the teacher
    scores, too, with the weights of the head's own loss; the background is a class.
    Of a decode head they are the cells of its score map with a labelled pixel at their
    centre. Of any other module that yields logits, (N, K) or (N, K, H, W), they are
    all of them outside of padding.

    Args:
        at: Tapped head of the student.
        loss_weight: Factor of the term.
        teacher_classes: See :class:`~mmkd.losses.box_head.BoxHeadLoss`.
        teacher_at: Tapped head of the teacher; ``at`` if not given.
    """

    reads = ('logits',)

    #: Whether the true classes must be known.
    needs_labels = False

    def __init__(
        self,
        at: str,
        loss_weight: float,
        teacher_classes: Sequence[int | str | None] | None,
        teacher_at: str | None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_classes, teacher_at)

    def prepare(self, student: Any, teacher: Any) -> None:
        if hasattr(student, 'stages') or hasattr(teacher, 'stages'):
            super().prepare(student, teacher)
            if student.stages[0].is_sigmoid:
                raise ValueError(
                    f'{type(self).__name__} compares the classes of a softmax but '
                    f'{student.name} has a sigmoid for every class; use '
                    'mmkd.WeightedSoftCrossEntropyLoss or '
                    'mmkd.ClassificationDistillationLoss'
                )
            return
        if self.needs_labels and not hasattr(student, 'labels_at'):
            raise ValueError(
                f'{type(self).__name__} needs the true classes, which only heads know; '
                "tap one, such as at='roi_head.bbox_head' or at='decode_head', in the "
                f'place of {self.at!r}'
            )
        if _has_sigmoids(getattr(student, 'module', None)):
            raise ValueError(
                f'{type(self).__name__} compares the classes of a softmax but the '
                f'decode head at {self.at!r} has a sigmoid for every class'
            )
        names = getattr(teacher, 'class_names', None)
        if self.teacher_classes is None:
            self.class_names = names
        if student is None or teacher is None:
            return
        pairs = paired_levels(student, teacher)
        if self.teacher_classes is not None:
            self._class_map = class_map_of(self.teacher_classes, pairs, names)
        elif any(s.dim() == 4 for s, _ in pairs):
            pairs = scored_alike(student, teacher, self.at, self.teacher_at)
        for s, t in pairs:
            if self._class_map is not None:
                s, t = self._class_map.alike(s, t, False, False)
            if s.dim() not in (2, 4) or s.shape[:2] != t.shape[:2]:
                raise ValueError(
                    'student and teacher must yield logits of the same classes, (N, K) '
                    f'or (N, K, H, W), but {self.at!r} yields {tuple(s.shape)} and '
                    f'{self.teacher_at!r} of the teacher {tuple(t.shape)}'
                )
            if s.shape[1] < 2:
                raise ValueError(
                    f'{self.at!r} yields one logit, whose softmax is always 1; tap '
                    'logits of at least two classes'
                )

    def class_rows(
        self, student: Any, teacher: Any, batch: Batch | None
    ) -> Iterator[ClassRows]:
        """The rows that are compared, stage by stage or map by map."""
        if hasattr(student, 'stages'):
            yield from self._of_box_heads(student, teacher)
            return
        pairs = paired_levels(student, teacher)
        for s, t in pairs:
            labels = mask = None
            if s.dim() == 4:
                t = resized(t, s)
                mask = batch.valid_mask(s) if batch is not None else None
                if hasattr(student, 'labels_at'):
                    labels = student.labels_at(s)
                    labelled = labels.ne(student.module.ignore_index)
                    mask = labelled if mask is None else labelled & mask
                    labels = labels.flatten()
                s, t = (x.movedim(1, -1).flatten(0, 2) for x in (s, t))
            if mask is not None:
                kept = mask.flatten().nonzero().squeeze(1)
                s, t = s[kept], t[kept]
                labels = None if labels is None else labels[kept]
            s, t, labels = self._shared(s, t, labels)
            ones = s.new_ones(len(s))
            yield ClassRows(s, t, labels, ones, max(len(s), 1), 1 / len(pairs))

    def _shared(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of a score map, (R, K), with the classes that both sides know."""
        if self._class_map is None:
            return student, teacher, labels
        student, teacher = self._class_map.alike(student, teacher, False, False)
        if labels is None:
            return student, teacher, None
        labels = self._class_map.labels_among(labels)
        if self._class_map.has_rest(student):
            return student, teacher, labels
        # Nothing stands for the others: rows of those classes say nothing.
        kept = labels.ne(student.shape[1]).nonzero().squeeze(1)
        return student[kept], teacher[kept], labels[kept]

    def _of_box_heads(self, student: Any, teacher: Any) -> Iterator[ClassRows]:
        for ours, theirs in self.stages(student, teacher):
            index = ours.label_weights.nonzero().squeeze(1)
            labels = ours.labels[index]
            if self._class_map is not None:
                labels = self._class_map.labels_among(labels)
            yield ClassRows(
                *self.logits(ours, theirs, index),
                labels,
                ours.label_weights[index],
                ours.class_factor,
                ours.weight,
            )


def _has_sigmoids(head: Any) -> bool:
    """Whether a decode head trains with a sigmoid for every class."""
    losses = getattr(head, 'loss_decode', ())
    losses = losses if isinstance(losses, Iterable) else [losses]
    return any(getattr(loss, 'use_sigmoid', False) for loss in losses)
