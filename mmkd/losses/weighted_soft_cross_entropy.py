"""Weighted soft cross-entropy: class probabilities to imitate, background first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..registry import MODELS
from .box_head import BoxHeadLoss
from .precision import (
    averaged_rows,
    check_rows,
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)


@full_precision
def weighted_soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    background_weight: float = 1.5,
    background_index: int = -1,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with the teacher's probabilities, the background weighted.

    .. math::
        -\frac{1}{a} \sum_n v_n \sum_c w_c\, \sigma(t_n / T)_c
            \log \sigma(s_n / T)_c

    where :math:`\sigma` is a softmax over the classes, :math:`w_c` the background
    weight for the background and 1 for the other classes, and :math:`v_n` the weight
    of a row. Most regions are background, and mistaking it for an object is the
    error that the weight is for. There is no factor :math:`T^2`.

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge
        Distillation, NIPS 2017

    Args:
        student: Class logits, shape (N, C + 1).
        teacher: Tensor of the same shape. Detached internally.
        background_weight: Weight of the background's term.
        background_index: Column of the background; the last in MMDetection.
        temperature: Softmax temperature T; must be > 0.
        weight: Weight :math:`v_n` of every row, shape (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows N if not given.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit, there is no such column, or the
            temperature is not positive.

    Example:
        >>> import torch
        >>> s, t = torch.zeros(1, 2), torch.zeros(1, 2)
        >>> weighted_soft_cross_entropy(s, t)  # (0.5 + 1.5 * 0.5) log 2
        tensor(0.8664)
    """
    check_same_shape(student, teacher)
    check_rows(student, weight)
    check_temperature(temperature)
    if not -student.shape[1] <= background_index < student.shape[1]:
        raise ValueError(
            f'background_index must be one of {student.shape[1]} columns but is '
            f'{background_index}'
        )
    student, teacher = only_weighted(weight, student, teacher)
    chance = (teacher.detach() / temperature).softmax(1)
    of_class = torch.ones_like(chance[:1])
    of_class[:, background_index] = background_weight
    log_s = (student / temperature).log_softmax(1)
    rows = -(of_class * chance * log_s).sum(1)
    return averaged_rows(rows, weight, avg_factor)


@full_precision
def weighted_soft_binary_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    background_weight: float = 1.5,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""The same for logits that are classifiers of their own: object or background.

    .. math::
        -\frac{1}{a} \sum_n v_n \big( p_n \log q_n
            + w\, (1 - p_n) \log (1 - q_n) \big)

    where :math:`p_n` and :math:`q_n` are the sigmoids of :math:`t_n / T` and
    :math:`s_n / T`, and w the background weight. Columns of a row are summed.

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge
        Distillation, NIPS 2017; this form is ours, for region proposal networks with
        one logit per anchor.

    Args:
        student: Logits of an object, shape (N,) or (N, C).
        teacher: Tensor of the same shape. Detached internally.
        background_weight: Weight w of the background's term.
        temperature: Temperature T; must be > 0.
        weight: Weight :math:`v_n` of every row, shape (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows N if not given.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit or the temperature is not positive.

    Example:
        >>> import torch
        >>> weighted_soft_binary_cross_entropy(torch.zeros(1), torch.zeros(1))
        tensor(0.8664)
    """
    check_same_shape(student, teacher)
    if student.dim() not in (1, 2):
        raise ValueError(
            f'logits must have shape (N,) or (N, C) but have {tuple(student.shape)}'
        )
    if student.dim() == 1:
        student, teacher = student[:, None], teacher[:, None]
    check_rows(student, weight)
    check_temperature(temperature)
    student, teacher = only_weighted(weight, student, teacher)
    if weight is None:
        weight = student.new_ones(len(student))
    if avg_factor is None:
        avg_factor = max(len(student), 1)
    total = _soft_binary_sum(
        student, teacher, weight[:, None], 1, background_weight, temperature
    )
    return total / avg_factor


@full_precision
def _soft_binary_sum(student: Tensor, *others: Any) -> Tensor:
    return _SoftBinarySum.apply(student, *others)


def _divided(values: Tensor, by: float) -> Tensor:
    return values if by == 1 else values / by


class _SoftBinarySum(torch.autograd.Function):
    """Weighted sum of soft binary cross-entropies, its gradient worked out at once.

    At RetinaNet's millions of logits a graph of operators costs several times the
    mathematics: what it keeps is one tensor, and going back is one product.

    Logits have K classes on the axis ``classes``, where the weight has size 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor,
        classes: int,
        background_weight: float,
        temperature: float,
    ) -> Tensor:
        # The loss of a logit is p softplus(-s) + w (1 - p) softplus(s), which is
        # w softplus(s) + p ((1 - w) softplus(s) - s), and its slope the same of
        # sigmoid(s) and 1. In place, because fresh memory costs as much as an operator.
        chance = torch.sigmoid(_divided(teacher, temperature))
        scaled = _divided(student, temperature)
        # Beyond 80 it is the identity in float64, too; torch would say so from 20 on.
        part = F.softplus(scaled, threshold=80)
        terms = (part * (1 - background_weight)).sub_(scaled).mul_(chance)
        terms.add_(part, alpha=background_weight)
        # Infinity may stand where nothing counts, and times 0 it is NaN.
        rows = (
            terms.sum(classes, keepdim=True).mul_(weight).masked_fill_(weight == 0, 0)
        )
        if ctx.needs_input_grad[0]:
            torch.sigmoid(scaled, out=part)
            slope = torch.mul(part, 1 - background_weight, out=terms)
            slope.sub_(1).mul_(chance).add_(part, alpha=background_weight)
            ctx.save_for_backward(slope, weight / temperature)
        return rows.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slope, weight = ctx.saved_tensors
        return slope * (weight * gradient), None, None, None, None, None


@MODELS.register_module()
class WeightedSoftCrossEntropyLoss(BoxHeadLoss):
    """:func:`weighted_soft_cross_entropy` on the classes of a head.

    Rows are those that the head's own classification loss counts, with their weights
    there: the sampled anchors of an RPN, the sampled RoIs of a box head, which the
    teacher scores, too, all anchors of a RetinaNet. They are divided by what that loss
    is divided by, its mean over ranks. A softmax takes the form with the background's
    logit, which is the last one; every logit of a sigmoid classifier takes
    :func:`weighted_soft_binary_cross_entropy`, with the objects' and the
    background's weight exchanged where the logit is the background's. Stages of a
    cascade count as much as their hard losses do.

    Args:
        at: Tapped head of the student; see
            :class:`~mmkd.losses.box_head.BoxHeadLoss`.
        loss_weight: Factor of the term.
        mu: Share of the hard loss. ``None`` leaves the head's own classification
            loss as it is; a number in [0, 1] scales it by mu and this term by
            1 - mu. The paper does not give its value; 0.5 was seen to diverge, 0.8
            to work. A schedule of the term (``mmkd.DistillScheduleHook``) with a
            ramp moves mu from 1 to its value.
        background_weight: Weight of the background's term.
        temperature: Softmax temperature; must be > 0.
        teacher_classes: Classes of the student as the teacher knows them. In a
            softmax all others add up with the background.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: heads of which the rows or classes do
            not mean the same, or a number out of range.

    Example:
        >>> WeightedSoftCrossEntropyLoss(at='rpn_head', mu=0.8)
        WeightedSoftCrossEntropyLoss(at='rpn_head', loss_weight=1.0, mu=0.8)
    """

    def __init__(
        self,
        at: str = 'roi_head.bbox_head',
        loss_weight: float = 1.0,
        mu: float | None = None,
        background_weight: float = 1.5,
        temperature: float = 1.0,
        teacher_classes: Sequence[int | str | None] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_classes, teacher_at)
        check_temperature(temperature)
        if mu is not None and not 0 <= mu <= 1:
            raise ValueError(f'mu must be None or in [0, 1] but is {mu}')
        if not (math.isfinite(background_weight) and background_weight >= 0):
            raise ValueError(
                f'background_weight must be finite and >= 0 but is {background_weight}'
            )
        self.mu = mu
        self.background_weight = float(background_weight)
        self.temperature = temperature

    reads = ('logits',)

    def before_student(self, tap: Any, factor: float) -> None:
        if self.mu is not None:
            tap.hard_factor *= 1 - factor * (1 - self.mu)

    def forward(self, student: Any, teacher: Any, batch: Batch | None = None) -> Tensor:
        value = super().forward(student, teacher, batch)
        return value if self.mu is None else (1 - self.mu) * value

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = []
        for ours, theirs in self.stages(student, teacher):
            weight = ours.label_weights
            index = weight.nonzero().squeeze(1)
            if self._takes_maps(ours, theirs, index):
                value = self._of_maps(ours, theirs)
            else:
                s, t = self.logits(ours, theirs, index)
                form = self._sigmoids if ours.is_sigmoid else self._softmax
                value = form(
                    s, t, weight[index], ours.class_factor, ours.has_background
                )
            terms.append(ours.weight * value)
        return sum(terms)  # type: ignore[return-value]

    def _takes_maps(self, ours: Any, theirs: Any, index: Tensor) -> bool:
        """Whether whole maps cost less than picking rows: where most rows count."""
        return (
            all(hasattr(view, 'class_maps') for view in (ours, theirs))
            and ours.is_sigmoid
            and not ours.has_background
            and self._class_map is None
            and 2 * len(index) > len(ours.label_weights)
        )

    def _of_maps(self, ours: Any, theirs: Any) -> Tensor:
        """:func:`weighted_soft_binary_cross_entropy` of all rows, without a copy."""
        levels = zip(
            ours.class_maps, theirs.class_maps, ours.as_maps(ours.label_weights)
        )
        totals = [
            _soft_binary_sum(s, t, weight, 2, self.background_weight, self.temperature)
            for s, t, weight in levels
        ]
        return torch.stack(totals).sum() / ours.class_factor

    def _softmax(
        self, student: Tensor, teacher: Tensor, weight: Tensor, factor: float, *_: Any
    ) -> Tensor:
        return weighted_soft_cross_entropy(
            student,
            teacher,
            self.background_weight,
            temperature=self.temperature,
            weight=weight,
            avg_factor=factor,
        )

    def _sigmoids(
        self,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor,
        factor: float,
        has_background: bool,
    ) -> Tensor:
        if has_background:
            # "Background" is a logit of its own: its opposite says "object".
            sign = student.new_ones(student.shape[1])
            sign[-1] = -1
            student, teacher = student * sign, teacher * sign
        return weighted_soft_binary_cross_entropy(
            student,
            teacher,
            self.background_weight,
            self.temperature,
            weight,
            factor,
        )

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, mu={self.mu}'
