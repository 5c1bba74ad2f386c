"""DIST: distillation from a stronger teacher by relations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .class_rows import ClassRowsLoss
from .precision import (
    check_rows,
    check_same_shape,
    check_temperature,
    full_precision,
)

EPS = 1e-8


@full_precision
def dist_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Tensor:
    r"""How little the probabilities of student and teacher correlate.

    .. math::
        T^2 \Big( \frac{\lambda_{inter}}{N} \sum_n (1 - r(p^s_{n:}, p^t_{n:}))
            + \frac{\lambda_{intra}}{K} \sum_k (1 - r(p^s_{:k}, p^t_{:k})) \Big)

    with the Pearson correlation r: between the classes of a row, and between the rows
    of a class. A student that orders them as the teacher does is not asked for the
    same numbers.

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
        https://arxiv.org/abs/2205.10536

    Args:
        student: Class logits, (N, K).
        teacher: Tensor of the same shape. Detached internally.
        temperature: Softmax temperature T; must be > 0.
        inter: Weight of the relations between classes.
        intra: Weight of the relations within a class.

    Returns:
        Scalar tensor. A differentiable zero without rows; of a single row the part
        within classes is left out. What does not vary correlates with nothing.

    Raises:
        ValueError: If the shapes differ or the temperature is not positive.

    Example:
        >>> import torch
        >>> t = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> dist_loss(t, t).abs() < 1e-6, dist_loss(-t, t)
        (tensor(True), tensor(4.))
    """
    check_same_shape(student, teacher)
    check_rows(student, None)
    check_temperature(temperature)
    if not len(student):
        return student.sum() * 0
    s, t = ((x / temperature).softmax(1) for x in (student, teacher.detach()))
    value = inter * (1 - _correlation(s, t)).mean()
    if len(student) > 1:  # one row has no deviation from its mean
        value = value + intra * (1 - _correlation(s.T, t.T)).mean()
    return temperature**2 * value


def _correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson correlation of every row, (N,)."""
    s, t = (
        F.normalize(x - x.mean(1, keepdim=True), dim=1, eps=EPS)
        for x in (student, teacher)
    )
    return (s * t).sum(1)


@MODELS.register_module()
class DISTLoss(ClassRowsLoss):
    """:func:`dist_loss` on class logits.

    Of a box head the rows are the RoIs that the student sampled, the background being
    a class; of a decode head the cells of its score map with a labelled pixel at their
    centre; of any other module all that it yields outside of padding. Rows of the whole
    batch are related with each other; under DDP those of each process.

    Args:
        at: Tapped head of the student.
        loss_weight: Factor of the term.
        temperature: Softmax temperature; must be > 0.
        inter: Weight of the relations between classes.
        intra: Weight of the relations within a class.
        teacher_classes: See :class:`~mmkd.losses.box_head.BoxHeadLoss`.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: a head without a softmax, other classes,
            or numbers out of range.

    Example:
        >>> loss = DISTLoss(at='fc', loss_weight=0.5)
        >>> import torch
        >>> t = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> loss(-t, t)
        tensor(2.)
    """

    def __init__(
        self,
        at: str = 'decode_head',
        loss_weight: float = 1.0,
        temperature: float = 1.0,
        inter: float = 1.0,
        intra: float = 1.0,
        teacher_classes: Sequence[int | str | None] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_classes, teacher_at)
        check_temperature(temperature)
        for name, value in (('inter', inter), ('intra', intra)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'{name} must be finite and >= 0 but is {value}')
        self.temperature = temperature
        self.inter = inter
        self.intra = intra

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = [
            rows.share
            * dist_loss(
                rows.student, rows.teacher, self.temperature, self.inter, self.intra
            )
            for rows in self.class_rows(student, teacher, batch)
        ]
        return sum(terms)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, inter={self.inter}, intra={self.intra}'
