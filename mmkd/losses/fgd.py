"""FGD: focal and global distillation of a detector's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, stride
from ..registry import MODELS
from .paired_maps import PairedMapsLoss
from .precision import check_mask, check_same_shape, check_temperature, full_precision


@torch.no_grad()
def foreground_weights(batch: Batch, like: Tensor) -> Tensor:
    """1 / area in every object's box, of the smallest box where they overlap.

    A box takes every cell that it touches, as the authors' code rounds it.

    Args:
        batch: The batch; its boxes are in input pixels.
        like: Feature map, (N, C, H, W).

    Returns:
        Weights, (N, 1, H, W), 0 outside of all boxes.
    """
    pixels, cells = batch.inputs.shape[2:], like.shape[2:]
    steps = [stride(p, c) for p, c in zip(pixels, cells)]
    row, column = (torch.arange(n, device=like.device) for n in cells)
    maps = [like.new_zeros(0, *cells)]  # there may be no images
    for boxes in batch.gt_boxes:
        x1, y1, x2, y2 = boxes.to(like.device, torch.float32).unbind(1)
        left, top = (x1 / steps[1]).floor(), (y1 / steps[0]).floor()
        right, bottom = (x2 / steps[1]).ceil(), (y2 / steps[0]).ceil()
        area = (right + 1 - left) * (bottom + 1 - top)
        rows = (row >= top[:, None]) & (row <= bottom[:, None])
        columns = (column >= left[:, None]) & (column <= right[:, None])
        inside = rows[:, :, None] & columns[:, None, :]
        weight = inside / area[:, None, None]
        maps.append(weight.amax(0, True) if len(boxes) else weight.sum(0, True))
    return torch.cat(maps)[:, None]


def attention(
    features: Tensor, temperature: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where, and in which channels, features are large: both have a mean of 1.

    Args:
        features: Shape (N, C, H, W).
        temperature: Of the softmax over positions and over channels.
        mask: Positions that take part, boolean, (N, 1, H, W); all if not given.

    Returns:
        Spatial attention, (N, 1, H, W), and channel attention, (N, C, 1, 1).
    """
    size = features.abs()
    where = size.mean(1, keepdim=True) / temperature
    if mask is None:
        count = torch.full_like(where[:, :, :1, :1], where[0, 0].numel())
        channel = size.mean((2, 3), keepdim=True)
    else:
        count = mask.sum((2, 3), keepdim=True)
        where = where.masked_fill(~mask, torch.finfo(where.dtype).min)
        size = size.masked_fill(~mask, 0)
        channel = size.sum((2, 3), keepdim=True) / count.clamp(min=1)
    spatial = count * where.flatten(1).softmax(1).view_as(where)
    channel = channel.shape[1] * (channel / temperature).softmax(1)
    return spatial, channel


@full_precision
def fgd_loss(
    student: Tensor,
    teacher: Tensor,
    foreground: Tensor,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Focal distillation: objects and background apart, where the teacher attends.

    .. math::
        \frac{1}{N} \sum \big( \alpha\, M + \beta\, B \big) A^S A^C (s - t)^2
            + \frac{\gamma}{N} \big( \|A^S(s) - A^S(t)\|_1 + \|A^C(s) - A^C(t)\|_1 \big)

    where M are the weights of the objects, B is 1 / (number of background positions)
    there and 0 in the objects, and A are the teacher's spatial and channel attention.

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, CVPR 2022,
        https://arxiv.org/abs/2111.11837

    Args:
        student: Features, (N, C, H, W).
        teacher: Tensor of the same shape. Detached internally.
        foreground: Weights M, (N, 1, H, W), see :func:`foreground_weights`.
        temperature: Temperature of the attention; must be > 0.
        alpha: Weight of the objects.
        beta: Weight of the background.
        gamma: Weight of the attention's difference.
        mask: Positions of the images, boolean, (N, 1, H, W); all if not given. The
            official code counts padding as background.

    Returns:
        Scalar tensor, in squared feature units. A differentiable zero if N is 0.

    Raises:
        ValueError: If the shapes do not fit or the temperature is not positive.

    Example:
        >>> s, t = torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, 2)
        >>> foreground = torch.tensor([[[[0.5, 0.0]]]])
        >>> fgd_loss(s, t, foreground, alpha=1.0, beta=10.0, gamma=0.0)
        tensor(21.)
    """
    check_same_shape(student, teacher)
    check_temperature(temperature)
    check_mask(foreground, student)
    if not student.numel():
        return student.sum() * 0
    teacher = teacher.detach()
    background = foreground == 0
    if mask is not None:
        check_mask(mask, student)
        mask = mask.bool()
        student, teacher = (x.masked_fill(~mask, 0) for x in (student, teacher))
        foreground, background = foreground * mask, background & mask
    spatial, channel = attention(teacher, temperature, mask)
    background = background.to(student)  # a boolean would make float32 of it
    count = background.sum((2, 3), keepdim=True).clamp(min=1)
    weight = alpha * foreground + beta * background / count
    focal = (weight * spatial * channel * (student - teacher).square()).sum()
    ours = attention(student, temperature, mask)
    difference = sum((x - y).abs().sum() for x, y in zip(ours, (spatial, channel)))
    return (focal + gamma * difference) / len(student)


class GlobalContext(nn.Module):
    """Global context block: what the whole map says is added everywhere.

    Reference:
        Cao et al., GCNet, ICCVW 2019, https://arxiv.org/abs/1904.11492

    Args:
        channels: Width C of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 4)  # a norm of one or two values passes nothing
        # A bias would change nothing behind a softmax.
        self.attend = nn.Conv2d(channels, 1, 1, bias=False)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )
        # As the authors: it starts as the identity.
        nn.init.kaiming_normal_(self.attend.weight, nonlinearity='relu')
        for parameter in self.transform[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps with their context, (N, C, H, W).

        Args:
            maps: The same shape.
            mask: Positions that take part, boolean, (N, 1, H, W).
        """
        scores = self.attend(maps)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        share = scores.flatten(1).softmax(1)
        context = torch.einsum('ncp,np->nc', maps.flatten(2), share.to(maps))
        return maps + self.transform(context[:, :, None, None])


@MODELS.register_module()
class FGDLoss(PairedMapsLoss):
    """:func:`fgd_loss` and the relation of all positions, levels averaged.

    The relation is the sum of squared differences of the maps behind a
    :class:`GlobalContext` of each side, trained and not exported, averaged over the
    images. The default weights are those of the authors' configs for anchor-based
    one-stage detectors; two-stage ones take 5e-5, 2.5e-5, 5e-5 and 5e-7 for alpha,
    beta, gamma and relation_weight, anchor-free ones 1.6e-3, 8e-4, 8e-4 and 8e-6 with
    a temperature of 0.8. The authors add levels: with five of them that is
    ``loss_weight=5``.

    Args:
        at: Tapped sub-module of the student.
        loss_weight: Factor of the whole term.
        temperature: Temperature of the attention; must be > 0.
        alpha: Weight of the objects.
        beta: Weight of the background.
        gamma: Weight of the attention's difference.
        relation_weight: Weight of the relation, the paper's lambda.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        adapter: ``dict(in_channels=..., out_channels=...)``, needed where widths
            differ and no dry run can find them.
        levels: Which levels are compared: ``None`` for all in order, ``'stride'`` for
            those of equal size, or pairs of the student's and the teacher's level.

    Raises:
        ValueError: When the model is built: levels or sizes that do not match, no dry
            run, or numbers out of range.

    Example:
        >>> from mmengine.structures import BaseDataElement, InstanceData
        >>> sample = BaseDataElement()
        >>> sample.gt_instances = InstanceData(bboxes=torch.tensor([[0., 0., 4., 4.]]))
        >>> maps = (torch.zeros(1, 4, 2, 2),)
        >>> loss = FGDLoss()
        >>> loss.prepare(maps, maps)
        >>> loss(maps, maps, Batch(torch.zeros(1, 3, 16, 16), [sample]))
        tensor(0., grad_fn=<MulBackward0>)
    """

    networks = 'context blocks'

    def __init__(
        self,
        at: str = 'neck',
        loss_weight: float = 1.0,
        temperature: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 5e-4,
        relation_weight: float = 5e-6,
        teacher_at: str | None = None,
        adapter: dict | None = None,
        levels: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at, adapter, levels)
        check_temperature(temperature)
        weights = dict(
            alpha=alpha, beta=beta, gamma=gamma, relation_weight=relation_weight
        )
        for name, value in weights.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'{name} must be finite and >= 0 but is {value}')
        self.temperature = temperature
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.relation_weight = relation_weight
        self.contexts: Any = nn.ModuleList()

    def prepare_maps(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        if not self.relation_weight:
            return
        self.contexts = nn.ModuleList(
            nn.ModuleDict(
                {side: GlobalContext(t.shape[1]) for side in ('student', 'teacher')}
            )
            for _, t in pairs
        ).to(pairs[0][0])

    def compare(
        self, level: int, student: Tensor, teacher: Tensor, batch: Batch | None
    ) -> Tensor:
        if batch is None:
            raise ValueError('FGD needs the batch: its boxes say where the objects are')
        mask = batch.valid_mask(student)
        foreground = foreground_weights(batch, student)
        weights = (self.alpha, self.beta, self.gamma)
        value = fgd_loss(student, teacher, foreground, self.temperature, *weights, mask)
        if not self.relation_weight:
            return value
        if not self.contexts:
            raise RuntimeError('the context blocks are made when the model is built')
        context = self.contexts[level]
        relation = _relation(
            context['student'](student, mask), context['teacher'](teacher, mask), mask
        )
        return value + self.relation_weight * relation

    def extra_repr(self) -> str:
        own = f'alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}'
        return f'{super().extra_repr()}, {own}, relation_weight={self.relation_weight}'


@full_precision
def _relation(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    error = student - teacher
    if mask is not None:
        error = error.masked_fill(~mask, 0)
    return error.square().sum() / max(len(student), 1)
