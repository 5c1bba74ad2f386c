"""Localization distillation (LD): box edges as distributions to imitate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .head_rows import HeadRowsLoss, Rows, total_over_ranks
from .precision import (
    check_rows,
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)

BIN_REDUCTIONS = ('mean', 'sum')
EDGES = 4


@full_precision
def localization_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 10.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
    bin_reduction: str = 'mean',
) -> Tensor:
    r"""KL divergence between the distributions of box edges.

    .. math::
        \frac{T^2}{a} \sum_n w_n \sum_b \frac{1}{B}
            \sigma(t_n / T)_b \log
            \frac{\sigma(t_n / T)_b}{\sigma(s_n / T)_b}

    where :math:`\sigma` is a softmax over the B bins of an edge. The paper's
    formula has no 1/B; the official code averages over the bins, and the
    published weights are for that (``bin_reduction='mean'``).

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR
        2022, https://arxiv.org/abs/2102.12252

    Args:
        student: Logits of one edge per row, shape (N, bins).
        teacher: Tensor of the same shape. Detached internally.
        temperature: Softmax temperature T; must be > 0.
        weight: Weight :math:`w_n` of every row, shape (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows if not given.
        bin_reduction: ``'mean'`` or ``'sum'`` over the bins.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit, the temperature is not positive,
            or the reduction is unknown.

    Example:
        >>> s, t = torch.zeros(1, 2), torch.tensor([[0., 10.]])
        >>> localization_distillation_loss(s, t)
        tensor(5.5472)
        >>> localization_distillation_loss(s, t, bin_reduction='sum')
        tensor(11.0944)
    """
    check_same_shape(student, teacher)
    check_rows(student, weight)
    check_temperature(temperature)
    if bin_reduction not in BIN_REDUCTIONS:
        raise ValueError(
            f'bin_reduction must be one of {BIN_REDUCTIONS} but is {bin_reduction!r}'
        )
    student, teacher = only_weighted(weight, student, teacher)
    log_s = (student / temperature).log_softmax(1)
    log_t = (teacher.detach() / temperature).log_softmax(1)
    terms = log_t.exp() * (log_t - log_s)
    rows = terms.mean(1) if bin_reduction == 'mean' else terms.sum(1)
    if weight is not None:
        rows = rows * weight
    if avg_factor is None:
        avg_factor = max(len(rows), 1)
    return rows.sum() * temperature**2 / avg_factor


@MODELS.register_module()
class LocalizationDistillationLoss(HeadRowsLoss):
    """:func:`localization_distillation_loss` on a region of a dense head.

    The head must predict a distribution per edge: MMDetection's ``GFLHead``, or
    ``mmkd.DistributionalRetinaHead``, ``DistributionalFCOSHead`` and
    ``DistributionalATSSHead``. An edge's row has the weight of its prior: in the
    main region the student's highest class score (detached), in the valuable
    localization region the IoU of prior and object.

    Normalisation: ``'avg_factor'`` divides the sum over priors, averaged over the
    4 edges, by the sum of the priors' weights, its mean over ranks, + 1e-6; it
    does not depend on the number of images or objects. ``'paper'`` divides by nothing
    (by 4 in the VLR), as the official code and MMDetection's ``LDHead`` do, whose
    loss grows with the images per GPU. ``configs/ld/README.md`` converts published
    weights from one to the other.

    Logs the mean KL per edge in nats (at the temperature, without
    :math:`T^2`) and the share of priors that are in the region.

    Args:
        at: Tapped dense head of the student.
        region: ``'main'`` (the student's positives) or ``'vlr'`` (the valuable
            localization region, without the positives).
        temperature: Softmax temperature; must be > 0.
        loss_weight: Factor of the term.
        normalize: ``'avg_factor'`` or ``'paper'``.
        bin_reduction: ``'mean'`` or ``'sum'`` over the bins.
        teacher_at: Tapped head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: a head without distributions, or two
            heads of which the rows or bins do not mean the same.

    Example:
        >>> LocalizationDistillationLoss(region='vlr')
        LocalizationDistillationLoss(at='bbox_head', loss_weight=0.25, region='vlr')
    """

    regions = ('main', 'vlr')
    needs_distributions = True
    reads = ('distributions',)

    def __init__(
        self,
        at: str = 'bbox_head',
        region: str = 'main',
        temperature: float = 10.0,
        loss_weight: float = 0.25,
        normalize: str = 'avg_factor',
        bin_reduction: str = 'mean',
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, region, temperature, loss_weight, normalize, teacher_at)
        if bin_reduction not in BIN_REDUCTIONS:
            raise ValueError(
                'bin_reduction must be one of '
                f'{BIN_REDUCTIONS} but is {bin_reduction!r}'
            )
        self.bin_reduction = bin_reduction

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        rows = self.rows(student, batch)
        ours = student.edges_of(rows.index).flatten(0, 1)
        theirs = teacher.edges_of(rows.index).flatten(0, 1)
        if self.normalize == 'paper':
            factor: Any = 1.0 if self.region == 'main' else 4.0
        else:
            factor = total_over_ranks(rows.weight)
        value = localization_distillation_loss(
            ours,
            theirs,
            self.temperature,
            weight=rows.weight.repeat_interleave(EDGES),
            avg_factor=EDGES * factor,
            bin_reduction=self.bin_reduction,
        )
        with torch.no_grad():
            divergence = localization_distillation_loss(
                ours, theirs, self.temperature, bin_reduction='sum'
            )
        self._log(rows, divergence / self.temperature**2, batch)
        return value

    def row_weights(self, student: Any, rows: Rows) -> Tensor:
        if self.region == 'vlr':
            return rows.weight
        return student.scores_of(rows.index).amax(1)
