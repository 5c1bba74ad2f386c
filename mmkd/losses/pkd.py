"""PKD: distillation by the Pearson correlation of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .paired_maps import PairedMapsLoss
from .precision import check_mask, check_same_shape, full_precision

EPS = 1e-6


@full_precision
def pkd_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Half the mean squared difference of maps whose channels are normalised.

    .. math::
        \frac{1}{2 m C} \sum_c \sum_i (\hat s_{ci} - \hat t_{ci})^2,
        \qquad \hat x_{ci} = \frac{x_{ci} - \mu_c(x)}{\sigma_c(x) + 10^{-6}}

    where i runs over the m positions of all images and :math:`\sigma` divides by
    m - 1, as in the authors' code. It is :math:`1 - r` with the Pearson correlation r
    of the channels, but for the factor (m - 1) / m: neither the scale nor the mean of
    a channel matters, so that detectors of different families can be compared.

    Reference:
        Cao et al., PKD: General Distillation Framework for Object Detectors via
        Pearson Correlation Coefficient, NeurIPS 2022,
        https://arxiv.org/abs/2207.02039

    Args:
        student: Features, shape (N, C, H, W).
        teacher: Tensor of the same shape. Detached internally.
        mask: Positions that take part, boolean, shape (N, 1, H, W); all if not given.

    Returns:
        Scalar tensor in [0, 2]. A differentiable zero for fewer than two positions.

    Raises:
        ValueError: If the shapes differ, or are not of maps.

    Example:
        >>> import torch
        >>> t = torch.tensor([[[[0.0, 1.0, 5.0]]]])
        >>> pkd_loss(3 * t + 7, t).abs() < 1e-6, pkd_loss(-t, t)
        (tensor(True), tensor(1.3333))
    """
    check_same_shape(student, teacher)
    if student.dim() != 4:
        raise ValueError(
            f'maps must have shape (N, C, H, W) but have {tuple(student.shape)}'
        )
    rows = [x.transpose(0, 1).flatten(1) for x in (student, teacher.detach())]
    if mask is not None:
        check_mask(mask, student)
        rows = [x[:, mask.bool().flatten()] for x in rows]
    if rows[0].shape[1] < 2:  # no deviation
        return rows[0].sum() * 0
    s, t = (
        (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + EPS) for x in rows
    )
    return (s - t).square().mean() / 2


@MODELS.register_module()
class PKDLoss(PairedMapsLoss):
    """:func:`pkd_loss`, levels averaged, padded areas left out.

    Made for detectors of different families: with ``levels='stride'`` pyramids that
    start at different strides are compared where they meet. Where the widths differ a
    trained 1x1 convolution adapts the student's.

    Args:
        at: Tapped sub-module of the student.
        loss_weight: Factor of the term. The authors add four levels, each with a
            weight of 6: that is 24 here.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        adapter: ``dict(in_channels=..., out_channels=...)``, needed where widths
            differ and no dry run can find them.
        levels: Which levels are compared: ``None`` for all in order, ``'stride'`` for
            those of equal size, or pairs of the student's and the teacher's level.

    Raises:
        ValueError: When the model is built: levels or sizes that do not match.

    Example:
        >>> loss = PKDLoss(loss_weight=2.0)
        >>> import torch
        >>> t = torch.tensor([[[[0.0, 1.0, 5.0]]]])
        >>> loss((-t, -t), (t, t))
        tensor(2.6667)
    """

    def __init__(
        self,
        at: str = 'neck',
        loss_weight: float = 1.0,
        teacher_at: str | None = None,
        adapter: dict | None = None,
        levels: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at, adapter, levels)

    def compare(
        self, level: int, student: Tensor, teacher: Tensor, batch: Batch | None
    ) -> Tensor:
        return pkd_loss(student, teacher, batch.valid_mask(student) if batch else None)
