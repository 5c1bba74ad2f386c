"""Soft targets: the knowledge distillation of Hinton et al."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .base import DistillLoss, paired_levels
from .precision import (
    check_mask,
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)


@full_precision
def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""KL divergence between softened class distributions.

    .. math::
        \frac{T^2}{N} \sum_n \mathrm{KL}\big(
            \sigma(t_n / T) \,\|\, \sigma(s_n / T)\big)

    where :math:`\sigma` is a softmax over the classes. :math:`T^2` keeps the
    size of the gradients as T changes. Positions behind the class axis are
    summed, as ``reduction='batchmean'`` does.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        https://arxiv.org/abs/1503.02531

    Args:
        student: Logits, shape (N, C, ...) with the classes on axis 1.
        teacher: Tensor of the same shape. Detached internally.
        temperature: Softmax temperature T; must be > 0.
        mask: Positions that count, boolean, shape (N, 1, H, W); all if not given.

    Returns:
        Scalar tensor, in nats. A differentiable zero if N is 0.

    Raises:
        ValueError: If the shapes differ, there is no class axis, or the
            temperature is not positive.

    Example:
        >>> import torch
        >>> soft_target_loss(torch.zeros(1, 2), torch.tensor([[0., 1.]]))
        tensor(0.1109)
    """
    check_same_shape(student, teacher)
    check_temperature(temperature)
    if student.dim() < 2:
        raise ValueError(
            f'logits must have shape (N, C, ...) but have {tuple(student.shape)}'
        )
    if mask is not None:
        check_mask(mask, student)
        student, teacher = only_weighted(mask, student, teacher)
    log_s = (student / temperature).log_softmax(1)
    log_t = (teacher.detach() / temperature).log_softmax(1)
    terms = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
    if mask is not None:
        terms = terms.masked_fill(~mask.bool(), 0)
    return terms.sum() * temperature**2 / max(student.shape[0], 1)


@MODELS.register_module()
class SoftTargetLoss(DistillLoss):
    """:func:`soft_target_loss` on tapped logits, averaged over levels.

    Args:
        at: Tapped sub-module of the student that yields logits with the
            classes on axis 1, such as ``'head.fc'`` of a classifier.
        temperature: Softmax temperature; must be > 0.
        loss_weight: Factor of the term.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: logits of different shapes, or one alone.

    Example:
        >>> import torch
        >>> loss = SoftTargetLoss(at='fc', temperature=1.0, loss_weight=2.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[0., 1.]]))
        tensor(0.2219)
    """

    reads = ('logits',)

    def __init__(
        self,
        at: str,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        check_temperature(temperature)
        self.temperature = temperature

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is not None and teacher is not None:
            for s, t in paired_levels(student, teacher):
                check_same_shape(s, t)
                if s.dim() > 1 and s.shape[1] == 1:
                    raise ValueError(
                        f'{self.at!r} yields one logit per position, whose softmax is '
                        'always 1; tap logits of at least two classes'
                    )

    def places(self, student: Any, batch: Batch) -> None:
        return None

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = [
            soft_target_loss(
                s, t, self.temperature, batch.valid_mask(s) if batch else None
            )
            for s, t in paired_levels(student, teacher)
        ]
        return sum(terms) / len(terms)  # type: ignore[return-value]
