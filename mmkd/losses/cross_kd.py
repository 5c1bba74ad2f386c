"""CrossKD: the student's features, judged by the teacher's head."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from ..batch import Batch
from ..nested import patched
from ..registry import MODELS
from ..taps import HeadView, Tap, record
from .base import DistillLoss, paired_levels
from .feature_imitation import adapter_between, check_sizes
from .head_rows import check_heads, total_over_ranks
from .localization_distillation import localization_distillation_loss
from .precision import (
    HALF,
    averaged_rows,
    check_rows,
    check_same_shape,
    full_precision,
    only_weighted,
)

EPS = 1e-6
TOWERS = ('cls_convs', 'reg_convs')


@full_precision
def quality_focal_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    beta: float = 1.0,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy to the teacher's scores, most where the two differ most.

    .. math::
        -\frac{1}{a} \sum_n w_n \sum_c |p_{nc} - q_{nc}|^\beta
            \big( p_{nc} \log q_{nc} + (1 - p_{nc}) \log (1 - q_{nc}) \big)

    where p and q are the sigmoids of teacher and student.

    Reference:
        Wang et al., CrossKD: Cross-Head Knowledge Distillation for Object Detection,
        CVPR 2024, https://arxiv.org/abs/2306.11369

    Args:
        student: Class logits, (N, C).
        teacher: Tensor of the same shape. Detached internally.
        beta: Exponent of the difference, 0 or at least 1: between them the slope is
            infinite where the two agree.
        weight: Weight of every row, (N,); 1 if not given.
        avg_factor: Divisor a; the number of rows if not given.

    Returns:
        Scalar tensor, in nats. A differentiable zero without rows.

    Raises:
        ValueError: If the shapes do not fit or the exponent is out of range.

    Example:
        >>> quality_focal_distillation_loss(torch.zeros(1, 1), torch.full((1, 1), 9.0))
        tensor(0.3465)
    """
    check_same_shape(student, teacher)
    check_rows(student, weight)
    _check_beta(beta)
    student, teacher = only_weighted(weight, student, teacher)
    target = teacher.detach().sigmoid()
    terms = F.binary_cross_entropy_with_logits(student, target, reduction='none')
    focus = (student.sigmoid() - target).abs()
    # Of ten million logits every copy counts.
    terms = terms * (focus if beta == 1 else focus.pow(beta))
    rows = terms.sum(1)
    if weight is not None:
        rows = rows.masked_fill(weight == 0, 0)
    return averaged_rows(rows, weight, avg_factor)


def _check_beta(beta: float) -> None:
    if not (beta == 0 or 1 <= beta < math.inf):
        raise ValueError(f'beta must be 0 or at least 1 but is {beta}')


@full_precision
def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map with the mean and deviation of the teacher's channels.

    Args:
        student: Features, (N, C, H, W).
        teacher: The same of the teacher. Detached internally.

    Returns:
        Shape (N, C, H, W).

    Example:
        >>> s = torch.tensor([[[[0.0, 2.0]]]])
        >>> aligned(s, 10 * s + 1)
        tensor([[[[ 1.0000, 21.0000]]]])
    """
    check_same_shape(student, teacher)
    if student.numel() < 2 * student.shape[1]:  # no deviation
        return student
    axes = (0, 2, 3)
    (s_std, s_mean), (t_std, t_mean) = (
        torch.std_mean(x, axes, keepdim=True) for x in (student, teacher.detach())
    )
    return (student - s_mean) / (s_std + EPS) * t_std + t_mean


class TowerTap(Tap):
    """A convolution of a head's tower, before its activation."""

    @property
    def watched(self) -> list[tuple[nn.Module, str]]:
        module = self.module
        if not _is_convolution(module):  # said when the loss is prepared
            return [(module, 'forward')]
        return [(module.norm if module.with_norm else module.conv, 'forward')]


def _is_convolution(module: Any) -> bool:
    """Whether it is an mmcv ConvModule that is activated last."""
    return hasattr(module, 'with_norm') and module.order[-1] == 'act'


@MODELS.register_module()
class CrossKDLoss(DistillLoss):
    """The student's head features pass the rest of the teacher's head.

    Features of the student's classification and regression tower behind the
    ``index``-th convolution, with the mean and deviation of the teacher's channels,
    enter the teacher's next convolution. What its frozen head makes of them is
    compared with what it makes of the teacher's own: classes by
    :func:`quality_focal_distillation_loss`, divided by the head's averaging factor;
    boxes, weighted by the teacher's highest class score, by the KL divergence of the
    edges' distributions, divided by the sum of the weights, or by GIoU where boxes
    are deltas of anchors, divided as the head's own box loss. Centerness is not
    compared. So the student's own predictions are free to follow
    the labels. Where towers differ in width a trained 1x1 convolution adapts the
    student's features.

    Heads have towers ``cls_convs`` and ``reg_convs`` of mmcv's ConvModules and classify
    by sigmoids: GFL, RetinaNet, ATSS, ``mmkd.DistributionalFCOSHead``.

    Reference:
        Wang et al., CrossKD: Cross-Head Knowledge Distillation for Object Detection,
        CVPR 2024, https://arxiv.org/abs/2306.11369

    Args:
        at: Dense head of the student.
        index: Behind how many convolutions, at least 1; the authors take 3 of 4.
        loss_weight: Factor of the whole term.
        cls_weight: Weight of the classes.
        box_weight: Weight of the boxes; the authors take 4 for distributions, 1 for
            GIoU.
        beta: Exponent of the class term.
        teacher_at: Dense head of the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: heads of which rows or towers do not
            belong together, or numbers out of range.

    Example:
        >>> CrossKDLoss(index=2).also_at
        ('bbox_head.cls_convs.1', 'bbox_head.reg_convs.1')
    """

    def __init__(
        self,
        at: str = 'bbox_head',
        index: int = 3,
        loss_weight: float = 1.0,
        cls_weight: float = 1.0,
        box_weight: float = 4.0,
        beta: float = 1.0,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        if type(index) is not int or index < 1:
            raise ValueError(f'index must be an integer >= 1 but is {index!r}')
        _check_beta(beta)
        numbers = dict(cls_weight=cls_weight, box_weight=box_weight)
        for name, value in numbers.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'{name} must be finite and >= 0 but is {value}')
        self.index = index
        self.cls_weight, self.box_weight, self.beta = cls_weight, box_weight, beta
        self._is_on = dict(zip(TOWERS, (cls_weight > 0, box_weight > 0)))
        self.also_at, self.teacher_also_at = (
            tuple(f'{path}.{tower}.{index - 1}' for tower in TOWERS)
            for path in (self.at, self.teacher_at)
        )
        self.tap_types = dict.fromkeys((*self.also_at, *self.teacher_also_at), TowerTap)
        self.adapters: Any = nn.ModuleDict()

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is None or teacher is None:
            raise ValueError(
                'CrossKDLoss needs dense heads that run on a synthetic image but '
                f'{self.at!r} or {self.teacher_at!r} of the teacher does not'
            )
        is_dense = isinstance(teacher, HeadView) and hasattr(teacher, 'bins')
        has_bins = is_dense and teacher.bins is not None  # type: ignore[attr-defined]
        check_heads(student, teacher, distributions=has_bins)
        if student.obstacle:
            raise ValueError(f'CrossKDLoss: {student.obstacle}')
        for side, view in (('student', student), ('teacher', teacher)):
            if not view.is_sigmoid:
                raise ValueError(
                    f'CrossKDLoss compares sigmoids but {view.name} of the {side} has '
                    'a softmax'
                )
        if self.box_weight and not has_bins and teacher.units is None:
            raise ValueError(
                f'CrossKDLoss compares distributions of edges or deltas of anchors but '
                f'{teacher.name} predicts neither; train both with '
                'mmkd.DistributionalFCOSHead, or set box_weight=0'
            )
        for view, tower in itertools.product((student, teacher), TOWERS):
            convolutions = list(getattr(view.module, tower))[: self.index]
            if not all(map(_is_convolution, convolutions)):
                raise ValueError(
                    f'CrossKDLoss needs towers of ConvModules but {tower} of '
                    f'{view.name} are others'
                )

    def prepare_also(self, student: dict[str, Any], teacher: dict[str, Any]) -> None:
        for tower, ours, theirs in zip(TOWERS, self.also_at, self.teacher_also_at):
            pairs = paired_levels(student.get(ours), teacher.get(theirs))
            check_sizes(pairs, 'use networks of the same strides')
            if self._is_on[tower] and any(s.shape[1] != t.shape[1] for s, t in pairs):
                self.adapters[tower] = adapter_between(pairs)

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        if batch is None:
            raise ValueError('CrossKDLoss needs the batch, which has the features')
        features = []
        for tower, ours, theirs in zip(TOWERS, self.also_at, self.teacher_also_at):
            pairs = paired_levels(batch.student[ours], batch.teacher[theirs])
            if not self._is_on[tower]:  # what its head makes of them is not looked at
                features.append([t for _, t in pairs])
                continue
            maps: Any = tuple(s for s, _ in pairs)
            if tower in self.adapters:
                maps = self.adapters[tower](maps)
            features.append([aligned(s, t) for s, (_, t) in zip(maps, pairs)])
        crossed = self._judged(teacher, features)
        weight = student.label_weights.float()
        value = features[0][0].sum() * 0
        if self.cls_weight:
            value = value + self.cls_weight * quality_focal_distillation_loss(
                crossed.class_rows,
                teacher.class_rows,
                self.beta,
                weight,
                student.class_factor,
            )
        if self.box_weight:
            trust = teacher.scores.amax(1).masked_fill(weight == 0, 0)
            distance = _box_distance(crossed, teacher, trust, student.box_factor)
            value = value + self.box_weight * distance
        return value

    def _judged(self, teacher: Any, features: list[list[Tensor]]) -> Any:
        """View of the teacher's head on features of the student.

        Args:
            teacher: The teacher's own.
            features: Maps of both towers, level by level.
        """
        head = teacher.module
        weight = next(head.parameters())
        kind = {teacher.path: type(teacher)}
        patches: dict[nn.Module, Any] = {}
        for name, maps in zip(TOWERS, features):
            tower = list(getattr(head, name))
            activate = tower[self.index - 1]
            levels = iter([x.to(weight.device) for x in maps])
            patches.update(dict.fromkeys(tower[: self.index - 1], nn.Identity()))
            patches[activate] = lambda x, levels=levels, conv=activate: _activated(
                conv, next(levels)
            )
        with (
            _in_training_mode(head),
            _autocast(weight),
            patched(patches),
            record(teacher.model, kind) as taps,
        ):
            head(tuple(features[0]))  # in the place of the neck's, which nothing reads
        crossed = taps[teacher.path]
        crossed.to(features[0][0].device)
        return crossed

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, index={self.index}'


def _activated(conv: Any, x: Tensor) -> Tensor:
    # Not in place: `x` belongs to the graph of the alignment.
    return conv.activate(x.clone()) if conv.with_activation else x


@contextmanager
def _in_training_mode(head: nn.Module) -> Any:
    """The module alone: some heads return boxes in pixels in evaluation."""
    was_training, head.training = head.training, True
    try:
        yield
    finally:
        head.training = was_training


def _autocast(weight: Tensor) -> Any:
    """In the half precision that the teacher's weights may be stored in."""
    kind = weight.device.type
    if weight.dtype in HALF:
        return torch.autocast(kind, dtype=weight.dtype)
    return torch.autocast(kind, enabled=torch.is_autocast_enabled(kind))


def _box_distance(crossed: Any, teacher: Any, trust: Tensor, factor: float) -> Tensor:
    """Distance of the boxes with these weights, (rows,), divided as the authors do."""
    if teacher.bins is not None:
        total = total_over_ranks(trust)
        edges = (x.edge_rows.flatten(0, 1) for x in (crossed, teacher))
        weight = trust[:, None].expand(-1, 4).flatten()
        return localization_distillation_loss(
            *edges, temperature=1.0, weight=weight, avg_factor=4 * total,
            bin_reduction='sum',
        )  # fmt: skip
    return _giou(crossed.box_rows, teacher.box_rows, teacher, trust) / factor


@full_precision
def _giou(student: Tensor, teacher: Tensor, view: Any, trust: Tensor) -> Tensor:
    student, teacher = only_weighted(trust, student, teacher)
    decode = view.module.bbox_coder.decode
    boxes = (decode(view.prior_rows, x) for x in (student, teacher.detach()))
    return (generalized_box_iou_loss(*boxes) * trust).sum()
