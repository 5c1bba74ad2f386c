"""Classification distillation of dense heads, as localization distillation adds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .class_map import ClassMap
from .head_rows import HeadRowsLoss, Rows, total_over_ranks
from .precision import (
    check_rows,
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)

FORMS = ('softmax', 'sigmoid')


@full_precision
def classification_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 2.0,
    form: str = 'softmax',
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence between softened class scores, averaged over the classes.

    .. math::
        \frac{T^2}{a} \sum_n \frac{w_n}{C} \sum_c k_{nc}

    With ``form='softmax'`` :math:`k_{nc} = p_c \log(p_c / q_c)`, p and q the
    softmax of teacher and student over the classes, also on heads that train
    with sigmoids: so it is published. With ``form='sigmoid'`` it is the divergence
    of the two Bernoulli distributions of every class.

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR
        2022, https://arxiv.org/abs/2102.12252

    Args:
        student: Class logits, shape (N, C).
        teacher: Tensor of the same shape. Detached internally.
        temperature: Temperature T; must be > 0.
        form: ``'softmax'`` or ``'sigmoid'``.
        weight: Weight :math:`w_n` of every row, shape (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows if not given.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit, the temperature is not positive,
            or the form is unknown.

    Example:
        >>> s, t = torch.zeros(1, 2), torch.tensor([[0., 2.]])
        >>> classification_distillation_loss(s, t)
        tensor(0.2219)
        >>> classification_distillation_loss(s, t, form='sigmoid')
        tensor(0.2219)
    """
    check_same_shape(student, teacher)
    check_rows(student, weight)
    check_temperature(temperature)
    if form not in FORMS:
        raise ValueError(f'form must be one of {FORMS} but is {form!r}')
    student, teacher = only_weighted(weight, student, teacher)
    s, t = student / temperature, teacher.detach() / temperature
    if form == 'softmax':
        log_s, log_t = s.log_softmax(1), t.log_softmax(1)
        terms = log_t.exp() * (log_t - log_s)
    else:
        yes = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
        no = (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
        terms = yes + no
    rows = terms.mean(1)
    if weight is not None:
        rows = rows * weight
    if avg_factor is None:
        avg_factor = max(len(rows), 1)
    return rows.sum() * temperature**2 / avg_factor


@MODELS.register_module()
class ClassificationDistillationLoss(HeadRowsLoss):
    """:func:`classification_distillation_loss` on a region of a dense head.

    A row is a prior; its weight is the one it has in the head's own
    classification loss (1 for most assigners).

    Normalisation: ``'avg_factor'`` divides by the number of rows, its mean over
    ranks, + 1e-6. ``'paper'`` takes the mean over the rows of every level and sums the
    levels, as the official code does.

    Logs the mean KL of the softened class scores per row in nats, summed over the
    classes, and the share of priors that are in the region.

    Args:
        at: Tapped dense head of the student.
        region: ``'main'`` (the student's positives), ``'vlr'`` (the valuable
            localization region, without the positives; the paper found that it
            hurts) or ``'all'``.
        form: ``'softmax'`` or ``'sigmoid'``.
        temperature: Temperature; must be > 0.
        loss_weight: Factor of the term.
        normalize: ``'avg_factor'`` or ``'paper'``.
        teacher_at: Tapped head of the teacher; ``at`` if not given.
        teacher_classes: See :class:`~mmkd.losses.box_head.BoxHeadLoss`.

    Raises:
        ValueError: When the model is built: two heads of which the rows do not
            mean the same.

    Example:
        >>> ClassificationDistillationLoss()
        ClassificationDistillationLoss(at='bbox_head', loss_weight=10.0, region='main')
    """

    regions = ('main', 'vlr', 'all')
    reads = ('logits',)

    def __init__(
        self,
        at: str = 'bbox_head',
        region: str = 'main',
        form: str = 'softmax',
        temperature: float = 2.0,
        loss_weight: float = 10.0,
        normalize: str = 'avg_factor',
        teacher_at: str | None = None,
        teacher_classes: Sequence[int | str | None] | None = None,
    ) -> None:
        super().__init__(at, region, temperature, loss_weight, normalize, teacher_at)
        self.teacher_classes = teacher_classes
        self.same_classes = teacher_classes is None
        self._class_map: ClassMap | None = None
        if form not in FORMS:
            raise ValueError(f'form must be one of {FORMS} but is {form!r}')
        self.form = form

    def prepare(self, student: Any, teacher: Any) -> None:
        super().prepare(student, teacher)
        shared = student.num_logits
        if self.teacher_classes is None:
            self.class_names = teacher.class_names
        else:
            self._class_map = ClassMap(
                self.teacher_classes,
                student.num_classes,
                teacher.num_classes,
                teacher.class_names,
            )
            shared = len(self._class_map.ours)
        if self.form == 'softmax' and shared == 1:
            raise ValueError(
                f'a softmax over the only class of {student.name} is always 1; use '
                "form='sigmoid'"
            )

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        rows = self.rows(student, batch)
        ours = student.classes_of(rows.index)
        theirs = teacher.classes_of(rows.index)
        if self._class_map is not None:
            ours, theirs = self._class_map.alike(
                ours, theirs, student.is_sigmoid, student.has_background
            )
        weight = rows.weight
        factor: Any = 1.0
        if self.normalize == 'paper':
            # The mean over the rows of each level is a weight of its own.
            level = student.levels[rows.index]
            count = torch.bincount(level, minlength=len(student.strides))
            weight = weight / count[level]
        else:
            factor = total_over_ranks(torch.ones_like(weight))
        value = classification_distillation_loss(
            ours, theirs, self.temperature, self.form, weight, factor
        )
        with torch.no_grad():
            divergence = classification_distillation_loss(
                ours, theirs, self.temperature, self.form
            )
        divergence = divergence * ours.shape[1] / self.temperature**2
        self._log(rows, divergence, batch)
        return value

    def row_weights(self, student: Any, rows: Rows) -> Tensor:
        if self.region == 'vlr':  # an assigner may ignore priors that lie in it
            return torch.ones_like(rows.weight)
        return student.label_weights[rows.index]
