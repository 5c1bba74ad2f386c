"""Bounded regression: boxes are pulled to the truth until they beat the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .box_head import BoxHeadLoss
from .precision import (
    averaged_rows,
    check_rows,
    check_same_shape,
    full_precision,
    only_weighted,
)


@full_precision
def bounded_regression_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    margin: float = 0.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Squared error of the boxes that are not better than the teacher's.

    .. math::
        \frac{1}{a} \sum_n v_n\, e^s_n\, [e^s_n + m > e^t_n], \qquad
        e_n = \lVert r_n - y_n \rVert^2

    The teacher's box is a bound, not a target: regression can point anywhere, also
    away from the truth :math:`y`. The term pulls to the truth and is off where the
    student is better than the teacher by the margin m. Squares are summed over the four
    coordinates, without a half.

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge
        Distillation, NIPS 2017

    Args:
        student: Predicted boxes :math:`r^s`, shape (N, 4), in the units of a head.
        teacher: Those of the teacher :math:`r^t`, same shape and units. Detached
            internally.
        target: True boxes y, same shape and units.
        margin: Margin m in squared units.
        weight: Weight :math:`v_n` of every row, shape (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows N if not given.

    Returns:
        Scalar tensor, in squared units. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import torch
        >>> target = torch.zeros(2, 4)
        >>> student = torch.tensor([[1., 0, 0, 0], [2, 0, 0, 0]])
        >>> teacher = torch.tensor([[2., 0, 0, 0], [1, 0, 0, 0]])
        >>> bounded_regression_loss(student, teacher, target)  # the second row alone
        tensor(2.)
    """
    check_same_shape(student, teacher)
    check_same_shape(student, target)
    check_rows(student, weight)
    student, teacher, target = only_weighted(weight, student, teacher, target)
    error = (student - target).square().sum(1)
    rows = error * is_bounded(student, teacher, target, margin)
    return averaged_rows(rows, weight, avg_factor)


@torch.no_grad()
@full_precision
def is_bounded(
    student: Tensor, teacher: Tensor, target: Tensor, margin: float = 0.0
) -> Tensor:
    """Which rows the bound is active on: those not better than the teacher's.

    Args:
        student: Predicted boxes, shape (N, 4).
        teacher: Those of the teacher.
        target: True boxes.
        margin: Margin in squared units.

    Returns:
        Boolean mask, shape (N,).

    Example:
        >>> is_bounded(torch.ones(1, 4), torch.ones(1, 4), torch.zeros(1, 4))
        tensor([False])
    """
    ours, theirs = (
        (box - target).square().sum(1) for box in (student, teacher.detach())
    )
    return ours + margin > theirs


@MODELS.register_module()
class BoundedRegressionLoss(BoxHeadLoss):
    """:func:`bounded_regression_loss` on the positives of a head.

    The head's own regression loss stays what the config says; this comes on top,
    divided by the same number, its mean over ranks. Boxes are compared in the units
    in which the student predicts (deltas of anchors or RoIs); those of a teacher whose
    box coder has other means or deviations are converted. A class-specific head is read
    at the true class. Stages of a cascade count as much as their hard losses do.

    Logs the share of positives on which the bound is active, ``..._active``; nothing
    in a step without positives.

    Args:
        at: Tapped head of the student; see
            :class:`~mmkd.losses.box_head.BoxHeadLoss`.
        margin: Margin in squared units; finite and >= 0. The paper does not give it.
        loss_weight: Factor of the term, the paper's nu.
        teacher_classes: Classes of the student as the teacher knows them. Of a class
            that a class-specific teacher does not know no box is compared.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: heads of which the rows, classes or
            boxes do not mean the same, or a number out of range.

    Example:
        >>> BoundedRegressionLoss(at='rpn_head')
        BoundedRegressionLoss(at='rpn_head', loss_weight=0.5, margin=0.0)
    """

    def __init__(
        self,
        at: str = 'roi_head.bbox_head',
        margin: float = 0.0,
        loss_weight: float = 0.5,
        teacher_classes: Sequence[int | str | None] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_classes, teacher_at)
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f'margin must be finite and >= 0 but is {margin}')
        self.margin = float(margin)

    def prepare(self, student: Any, teacher: Any) -> None:
        super().prepare(student, teacher)
        for side, view in (('student', student), ('teacher', teacher)):
            if any(stage.units is None for stage in view.stages):
                raise ValueError(
                    f"the {side}'s head must predict deltas of boxes "
                    f'(DeltaXYWHBBoxCoder) but {view.name} does not'
                )

    def needs_classes(self, teacher: Any) -> bool:
        return any(stage.is_class_specific for stage in teacher.stages)

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms, active = [], []
        for ours, theirs in self.stages(student, teacher):
            index = ours.positives.nonzero().squeeze(1)
            labels = their_labels = ours.labels[index]
            if self._class_map is not None:
                known = self._class_map.is_known(labels)
                index, labels = index[known], labels[known]
                their_labels = self._class_map.their_labels(labels)
            s = ours.deltas(index, labels)
            t = theirs.deltas(index, their_labels)
            t = in_units(t, theirs.units, ours.units)
            target = ours.true_deltas(index)
            active.append(is_bounded(s, t, target, self.margin))
            terms.append(ours.weight * self.rows_loss(s, t, target, ours.box_factor))
        if batch is not None and any(map(len, active)):
            batch.logs['active'] = torch.cat(active).float().mean()
        return sum(terms)  # type: ignore[return-value]

    def rows_loss(
        self, student: Tensor, teacher: Tensor, target: Tensor, avg_factor: float
    ) -> Tensor:
        """Value of one stage."""
        return bounded_regression_loss(
            student, teacher, target, self.margin, avg_factor=avg_factor
        )

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, margin={self.margin}'


@MODELS.register_module()
class BoxImitationLoss(BoundedRegressionLoss):
    """Squared distance to the teacher's boxes: what bounded regression replaces.

    The baseline of Chen et al.'s ablation, and nothing else: the teacher's errors are
    imitated with the rest. Rows, units, divisor and logs are those of
    :class:`BoundedRegressionLoss`.

    Args:
        at: Tapped head of the student.
        loss_weight: Factor of the term.
        teacher_classes: Classes of the student as the teacher knows them.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Example:
        >>> BoxImitationLoss(at='rpn_head').loss_weight
        0.5
    """

    def __init__(
        self,
        at: str = 'roi_head.bbox_head',
        loss_weight: float = 0.5,
        teacher_classes: Sequence[int | str | None] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, 0.0, loss_weight, teacher_classes, teacher_at)

    def rows_loss(
        self, student: Tensor, teacher: Tensor, target: Tensor, avg_factor: float
    ) -> Tensor:
        # A bound that is always active, with the teacher in the place of the truth.
        truth = teacher.detach()
        return bounded_regression_loss(
            student, teacher, truth, margin=1.0, avg_factor=avg_factor
        )


def in_units(deltas: Tensor, theirs: Any, ours: Any) -> Tensor:
    """Box deltas of one coder as another one would write them.

    Decoding by one and encoding by the other is a change of mean and deviation: the
    box that the deltas start from is the same. Nothing is clipped on the way.

    Args:
        deltas: Shape (N, 4).
        theirs: Means and standard deviations of the deltas.
        ours: Those wanted.

    Returns:
        Shape (N, 4), in float32 at least where the units differ.

    Example:
        >>> half, one = ((0.,) * 4, (0.5,) * 4), ((0.,) * 4, (1.,) * 4)
        >>> in_units(torch.ones(1, 4), half, one)
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    if theirs == ours:
        return deltas
    deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
    (their_mean, their_std), (our_mean, our_std) = (
        (deltas.new_tensor(mean), deltas.new_tensor(std))
        for mean, std in (theirs, ours)
    )
    return (deltas * their_std + their_mean - our_mean) / our_std
