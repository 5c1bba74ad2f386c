"""Channel-wise knowledge distillation (CWD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .paired_maps import PairedMapsLoss
from .precision import check_mask, check_same_shape, check_temperature, full_precision


@full_precision
def channel_wise_divergence(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""KL divergence between the spatial distributions of each channel.

    .. math::
        \frac{T^2}{N C} \sum_{n,c} \mathrm{KL}\big(
            \sigma(t_{nc} / T) \,\|\, \sigma(s_{nc} / T)\big)

    where :math:`\sigma` is a softmax over the :math:`HW` positions.

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction,
        ICCV 2021, https://arxiv.org/abs/2011.13256

    Args:
        student: Feature map or logits, shape (N, C, H, W).
        teacher: Tensor of the same shape. Detached internally.
        temperature: Softmax temperature T; must be > 0.
        mask: Positions that take part, boolean, shape (N, 1, H, W); all of
            them if not given. The official code has no mask.

    Returns:
        Scalar tensor, in nats. A differentiable zero for empty tensors.

    Raises:
        ValueError: If the shapes differ, the mask does not fit, or the temperature
            is not positive.

    Example:
        >>> s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0., 1.]]]])
        >>> channel_wise_divergence(s, t)
        tensor(0.1109)
    """
    check_same_shape(student, teacher)
    check_temperature(temperature)
    if student.dim() < 3:
        raise ValueError(
            f'maps must have shape (N, C, H, W) but have {tuple(student.shape)}'
        )
    s = student.flatten(2) / temperature
    t = teacher.detach().flatten(2) / temperature
    if mask is not None:
        check_mask(mask, student)
        outside = ~mask.bool().flatten(2)
        # The smallest finite number, not -inf: no NaN can arise on the way.
        s, t = (x.masked_fill(outside, torch.finfo(x.dtype).min) for x in (s, t))
    log_s, log_t = s.log_softmax(-1), t.log_softmax(-1)
    terms = log_t.exp() * (log_t - log_s)
    if mask is not None:
        terms = terms.masked_fill(outside, 0)
    rows = student.shape[0] * student.shape[1]
    return terms.sum() * temperature**2 / max(rows, 1)


@MODELS.register_module()
class ChannelWiseDivergenceLoss(PairedMapsLoss):
    """:func:`channel_wise_divergence`, levels averaged, padded areas masked out.

    Where the widths of student and teacher differ, a trained 1x1 convolution
    adapts the student's; where they agree the maps are compared as they are, as
    published for segmentation logits.

    Args:
        at: Tapped sub-module of the student, such as ``'neck'`` or
            ``'decode_head.conv_seg'``.
        temperature: Softmax temperature; must be > 0.
        loss_weight: Factor of the term.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        adapter: ``dict(in_channels=..., out_channels=...)``, needed where widths
            differ and no dry run can find them.
        levels: Which levels are compared: ``None`` for all in order, ``'stride'`` for
            those of equal size, or pairs of the student's and the teacher's level.

    Raises:
        ValueError: When the model is built: levels or sizes that do not match.

    Example:
        >>> loss = ChannelWiseDivergenceLoss(at='neck', loss_weight=3.0)
        >>> s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0., 1.]]]])
        >>> loss(s, t)
        tensor(0.3328)
    """

    def __init__(
        self,
        at: str,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        teacher_at: str | None = None,
        adapter: dict | None = None,
        levels: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at, adapter, levels)
        check_temperature(temperature)
        self.temperature = temperature

    def compare(
        self, level: int, student: Tensor, teacher: Tensor, batch: Batch | None
    ) -> Tensor:
        mask = batch.valid_mask(student) if batch is not None else None
        return channel_wise_divergence(student, teacher, self.temperature, mask)
