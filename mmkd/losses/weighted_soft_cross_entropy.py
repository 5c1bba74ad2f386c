"""Weighted soft cross-entropy: class probabilities to imitate, background first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
    # With "background" as the positive class its weight is torch's `pos_weight`, and
    # all is one operator: at RetinaNet's ten million logits memory and time count.
    terms = F.binary_cross_entropy_with_logits(
        student / -temperature,
        (teacher.detach() / -temperature).sigmoid(),
        pos_weight=student.new_tensor(background_weight),
        reduction='none',
    )
    return averaged_rows(terms.sum(1), weight, avg_factor)


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
            index = ours.label_weights.nonzero().squeeze(1)
            s, t = self.logits(ours, theirs, index)
            weight = ours.label_weights[index]
            form = self._sigmoids if ours.is_sigmoid else self._softmax
            value = form(s, t, weight, ours.class_factor, ours.has_background)
            terms.append(ours.weight * value)
        return sum(terms)  # type: ignore[return-value]

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
