"""DKD: target and non-target classes, decoupled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .class_rows import ClassRowsLoss
from .precision import (
    averaged_rows,
    check_rows,
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)


@full_precision
def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence of "the true class or not", and that among the other classes.

    .. math::
        \frac{T^2}{N} \sum_n \big( \alpha\, \mathrm{KL}(b^t_n \| b^s_n)
            + \beta\, \mathrm{KL}(\hat p^t_n \| \hat p^s_n) \big)

    where b are the probabilities of the true class and of all others together, and
    :math:`\hat p` those of the others among themselves. With :math:`\beta` in the
    place of the teacher's probability of the others it would be a soft target.

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022,
        https://arxiv.org/abs/2203.08679

    Args:
        student: Class logits, (N, K), K at least 2.
        teacher: Tensor of the same shape. Detached internally.
        labels: The true classes, (N,), in [0, K).
        temperature: Softmax temperature T; must be > 0.
        alpha: Weight of the target's part.
        beta: Weight of the others' part.
        weight: Weight of every row, (N,); 1 if not given.
        avg_factor: Divisor in the place of N.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If shapes do not fit, a class does not exist, or the temperature
            is not positive.

    Example:
        >>> t = torch.tensor([[2.0, 1.0, 0.0]])
        >>> dkd_loss(torch.zeros(1, 3), t, torch.tensor([0]), temperature=1.0, beta=0)
        tensor(0.2291)
    """
    check_same_shape(student, teacher)
    check_rows(student, weight)
    check_temperature(temperature)
    if student.shape[1] < 2:
        raise ValueError('logits must be of at least two classes but are of one')
    if tuple(labels.shape) != (len(student),):
        raise ValueError(
            f'labels must have shape {(len(student),)} but have {tuple(labels.shape)}'
        )
    student, teacher = only_weighted(weight, student, teacher.detach())
    if weight is not None:  # such rows may be labelled as ignored
        labels = labels.masked_fill(weight == 0, 0)
    if len(labels) and not 0 <= labels.min() <= labels.max() < student.shape[1]:
        raise ValueError(
            f'labels must be in [0, {student.shape[1]}), the classes of the logits, '
            f'but are from {labels.min().item()} to {labels.max().item()}'
        )
    is_target = torch.zeros_like(student, dtype=torch.bool)
    is_target.scatter_(1, labels[:, None].long(), True)
    sides = [_decoupled(x / temperature, is_target) for x in (student, teacher)]
    (log_s, others_s), (log_t, others_t) = sides
    target = (log_t.exp() * (log_t - log_s)).sum(1)
    others = (others_t.exp() * (others_t - others_s)).sum(1)
    rows = temperature**2 * (alpha * target + beta * others)
    return averaged_rows(rows, weight, avg_factor)


def _decoupled(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the true class and the rest, (N, 2), and of the others.

    Those of the others, (N, K - 1), are among themselves.
    """
    others = logits[~is_target].view(len(logits), logits.shape[1] - 1)
    rest = others.logsumexp(1, keepdim=True)
    pair = torch.cat([logits[is_target][:, None], rest], 1)
    # Not log(1 - p): that is infinite where the true class takes all.
    return pair.log_softmax(1), others - rest


@MODELS.register_module()
class DKDLoss(ClassRowsLoss):
    """:func:`dkd_loss` on the classes of a box head or a decode head.

    Rows are the RoIs that the student sampled, with the weights of the head's own
    loss, the background being a class; or the cells of a score map with a labelled
    pixel at their centre. It needs a softmax.

    Args:
        at: Tapped head of the student: ``'roi_head.bbox_head'`` or ``'decode_head'``.
        loss_weight: Factor of the term.
        temperature: Softmax temperature; the authors take 1 in detection.
        alpha: Weight of the true class's part.
        beta: Weight of the other classes' part; the authors take 0.25 in detection.
        teacher_classes: See :class:`~mmkd.losses.box_head.BoxHeadLoss`.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: a head without a softmax or without
            labels, other classes, or numbers out of range.

    Example:
        >>> DKDLoss(temperature=2.0)
        DKDLoss(at='roi_head.bbox_head', loss_weight=1.0, alpha=1.0, beta=0.25)
    """

    needs_labels = True

    def __init__(
        self,
        at: str = 'roi_head.bbox_head',
        loss_weight: float = 1.0,
        temperature: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.25,
        teacher_classes: Sequence[int | str | None] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_classes, teacher_at)
        check_temperature(temperature)
        for name, value in (('alpha', alpha), ('beta', beta)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'{name} must be finite and >= 0 but is {value}')
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = [
            rows.share
            * dkd_loss(
                rows.student,
                rows.teacher,
                rows.labels,
                self.temperature,
                self.alpha,
                self.beta,
                rows.weight,
                rows.avg_factor,
            )
            for rows in self.class_rows(student, teacher, batch)
        ]
        return sum(terms)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, alpha={self.alpha}, beta={self.beta}'
