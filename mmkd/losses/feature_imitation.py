"""Feature imitation (hint): the student's features regress the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapters import build_adapter
from ..batch import Batch
from ..registry import MODELS
from .base import DistillLoss, levels
from .head_rows import check_heads
from .imitation_region import (
    OF_THE_HEAD,
    REGIONS,
    fine_grained_region,
    general_instance_region,
)
from .level_pairs import check_pairs, paired, pairs_by_stride
from .precision import (
    check_mask,
    check_same_shape,
    full_precision,
    only_weighted,
)

NORMS = ('l2', 'l1')
RESIZE_MODES = ('nearest', 'bilinear', 'bicubic', 'area')
#: What the background counts for beside the objects in the decoupled region.
BACKGROUND_WEIGHT = 2.0
LEVELS_REMEDY = "set levels='stride' to compare those of equal stride alone"


@full_precision
def feature_imitation_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, norm: str = 'l2'
) -> Tensor:
    r"""Mean distance between the elements of two feature maps.

    .. math::
        \frac{1}{|M| C} \sum_{(n,y,x) \in M} \sum_c
            d(s_{ncyx} - t_{ncyx}), \qquad d(e) = e^2 \text{ or } |e|

    where :math:`M` are the masked positions, all of them without a mask. The
    papers leave the normaliser open; the mean makes the weight independent of
    resolution, width and batch size.

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015,
        https://arxiv.org/abs/1412.6550

        Chen et al., Learning Efficient Object Detection Models with Knowledge
        Distillation, NIPS 2017

    Args:
        student: Features, any shape; (N, C, H, W) with a mask.
        teacher: Tensor of the same shape. Detached internally.
        mask: Weights of the positions, shape (N, 1, H, W), boolean or float.
        norm: ``'l2'`` (squared difference) or ``'l1'`` (absolute difference).

    Returns:
        Scalar tensor, in squared (l2) or plain (l1) feature units. A
        differentiable zero if the tensors are empty or the mask selects nothing.

    Raises:
        ValueError: If the shapes differ, the mask does not fit, or the norm is
            unknown.

    Example:
        >>> import torch
        >>> s, t = torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, 2) * 3
        >>> feature_imitation_loss(s, t)
        tensor(9.)
        >>> feature_imitation_loss(s, t, norm='l1')
        tensor(3.)
    """
    check_same_shape(student, teacher)
    if norm not in NORMS:
        raise ValueError(f'norm must be one of {NORMS} but is {norm!r}')
    error = student - teacher.detach()
    if mask is not None:
        check_mask(mask, student)
        (error,) = only_weighted(mask, error)
    error = error.square() if norm == 'l2' else error.abs()
    if mask is None:
        return error.sum() / max(error.numel(), 1)
    mask = mask.to(error.dtype)
    selected = mask.sum() * student.shape[1]
    # An empty selection divides 0 by 1: a zero that still reaches the student.
    return (error * mask).sum() / selected.masked_fill(selected == 0, 1)


@MODELS.register_module()
class FeatureImitationLoss(DistillLoss):
    """:func:`feature_imitation_loss` between adapted features, levels averaged.

    The student side passes a 1x1 convolution (a fully connected layer for
    vectors and token sequences), also where the widths agree: Chen et al. saw
    1.1 mAP from adapting alone. Padded areas of maps are masked out.

    Args:
        at: Tapped sub-module of the student; yields a tensor or a tuple.
        loss_weight: Factor of the term.
        norm: ``'l2'`` or ``'l1'``.
        adapter: ``None`` (made from the widths seen when the model is built),
            or ``dict(in_channels=..., out_channels=...)`` with one number or
            one per level, or the config of any module that maps a tuple of
            features to a tuple of features. ``dict(type='mmkd.Identity')`` adapts
            nothing, which needs equal widths.
        resize: How the teacher's map is brought to the student's height and
            width where they differ: ``'bilinear'``, ``'nearest'``,
            ``'bicubic'`` or ``'area'``. ``None`` makes a difference an error.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        region: Which positions count. ``'whole'``: all. ``'inside_gt'``: those in
            the box of an object. ``'decoupled'``: the mean over them and twice
            the mean over the others. ``'fine_grained'``: those with a prior whose
            IoU exceeds half of the object's best prior's. ``'gi'``: where the two
            networks' predictions differ most (general instances), see
            :func:`~mmkd.losses.imitation_region.general_instance_region`.
        region_at: Dense head, the same path in both networks, whose priors or
            predictions define ``'fine_grained'`` and ``'gi'``. Its levels must be
            those of ``at``.
        levels: Which levels are compared. ``None``: all, in order. ``'stride'``:
            those of equal size, found when the model is built, others left out, for
            pyramids such as p3-p7 and p2-p6. Or pairs of the student's and the
            teacher's level, counted from 0. Only these have an adapter.

    Raises:
        ValueError: When the model is built: levels or sizes that do not match, or
            a head that cannot define the region.

    Example:
        >>> import torch
        >>> loss = FeatureImitationLoss(at='neck', loss_weight=2.0)
        >>> s, t = torch.zeros(1, 4, 2, 2), torch.ones(1, 8, 2, 2)
        >>> loss.prepare((s, s), (t, t))
        >>> loss.adapter.convs
        ModuleList(
          (0-1): 2 x Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1))
        )
    """

    reads = ('logits',)

    def __init__(
        self,
        at: str,
        loss_weight: float = 1.0,
        norm: str = 'l2',
        adapter: dict | None = None,
        resize: str | None = None,
        teacher_at: str | None = None,
        region: str = 'whole',
        region_at: str = 'bbox_head',
        levels: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        self.levels: Any = check_pairs(levels)  # pairs once it is prepared
        if region not in REGIONS:
            raise ValueError(f'region must be one of {REGIONS} but is {region!r}')
        self.region = region
        self.region_at = region_at
        if region in OF_THE_HEAD:
            self.also_at = (region_at,)
        if region == 'gi':
            self.teacher_also_at = (region_at,)
        if norm not in NORMS:
            raise ValueError(f'norm must be one of {NORMS} but is {norm!r}')
        if resize is not None and resize not in RESIZE_MODES:
            raise ValueError(
                f'resize must be None or one of {RESIZE_MODES} but is {resize!r}'
            )
        self.norm = norm
        self.resize = resize
        self.adapter = build_adapter(adapter) if adapter is not None else None

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is None or teacher is None:
            if self.levels == 'stride':
                raise ValueError(
                    'the strides cannot be found by a dry run; give levels as pairs'
                )
            if self.adapter is None:
                raise ValueError(
                    'the channels cannot be found by a dry run; give '
                    'adapter=dict(in_channels=..., out_channels=...)'
                )
            return
        if self.levels == 'stride':
            self.levels = pairs_by_stride(student, teacher)
        try:
            pairs = paired(student, teacher, self.levels)
        except ValueError as error:
            raise ValueError(f'{error}; {LEVELS_REMEDY}') from error
        remedy = (
            f"tap modules of equal stride, {LEVELS_REMEDY}, or set resize='bilinear'"
        )
        check_sizes(pairs, '' if self.resize else remedy)
        if self.adapter is None:
            self.adapter = adapter_between(pairs)
        # Widths given by hand, or a module of the user's, may not fit.
        for adapted, (_, t) in zip(self._dry_adapt(pairs), pairs):
            if adapted.dim() != t.dim() or _width(adapted) != _width(t):
                raise ValueError(
                    f"the adapter must yield the teacher's width {_width(t)} but "
                    f'yields {tuple(adapted.shape)}'
                )

    def prepare_also(self, student: dict[str, Any], teacher: dict[str, Any]) -> None:
        if self.region not in OF_THE_HEAD:
            return
        heads = student.get(self.region_at), teacher.get(self.region_at)
        if self.region == 'gi':
            check_heads(*heads, distributions=True)
        else:
            check_heads(heads[0], heads[0], distributions=False)
        sizes = [tuple(x.shape[2:]) for x in levels(student[self.at])]
        if sizes != heads[0].sizes:  # type: ignore[union-attr]
            raise ValueError(
                f'region {self.region!r} needs the levels of {self.region_at!r} but '
                f'{self.at!r} yields maps of {sizes} and the head has '
                f'{heads[0].sizes}'  # type: ignore[union-attr]
            )

    @torch.no_grad()
    def _dry_adapt(self, pairs: list[tuple[Tensor, Tensor]]) -> Any:
        adapter: Any = self.adapter
        was_training = adapter.training
        adapter.eval()  # an adapter with BatchNorm must not learn from synthetic images
        try:
            return adapter(tuple(s for s, _ in pairs))
        finally:
            adapter.train(was_training)

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        pairs = paired(student, teacher, self.levels)
        ours = [s for s, _ in pairs]
        if self.adapter is not None:
            ours = self.adapter(tuple(ours))
        regions = self._regions(ours, batch)
        terms = []
        for adapted, (_, target), region in zip(ours, pairs, regions):
            target = target.detach()
            if self.resize is not None and adapted.shape[2:] != target.shape[2:]:
                target = F.interpolate(
                    target.float(), size=adapted.shape[2:], mode=self.resize
                )
            valid = batch.valid_mask(adapted) if batch is not None else None
            if region is None:
                terms.append(feature_imitation_loss(adapted, target, valid, self.norm))
                continue
            within = region if valid is None else region & valid
            term = feature_imitation_loss(adapted, target, within, self.norm)
            if self.region == 'decoupled':
                beyond = ~region if valid is None else ~region & valid
                term = term + BACKGROUND_WEIGHT * feature_imitation_loss(
                    adapted, target, beyond, self.norm
                )
            terms.append(term)
        return sum(terms) / len(terms)  # type: ignore[return-value]

    def _regions(self, maps: Any, batch: Batch | None) -> Sequence[Tensor | None]:
        """Mask of every level; ``None`` selects all positions."""
        if self.region == 'whole':
            return [None] * len(maps)
        if batch is None:
            raise ValueError(f'region {self.region!r} needs the batch')
        if self.region == 'fine_grained':
            return self._chosen(
                fine_grained_region(batch.student[self.region_at], batch)
            )
        if self.region == 'gi':
            heads = batch.student[self.region_at], batch.teacher[self.region_at]
            return self._chosen(general_instance_region(*heads, batch))
        return [batch.inside_gt(x) for x in maps]

    def _chosen(self, regions: Sequence[Tensor]) -> Sequence[Tensor]:
        """Of the regions of all the head's levels those that are compared."""
        if self.levels is None:
            return regions
        return [regions[ours] for ours, _ in self.levels]


def adapter_between(pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """Adapter from the student's widths to the teacher's, beside the student."""
    adapter = build_adapter(
        dict(
            in_channels=[_width(s) for s, _ in pairs],
            out_channels=[_width(t) for _, t in pairs],
            # A vision transformer's maps may have a class token beside them.
            layer=['conv' if s.dim() == 4 else 'linear' for s, _ in pairs],
        )
    )
    # A student that is given as a network may be on a GPU, or in double precision.
    return adapter.to(pairs[0][0])


def _width(features: Tensor) -> int:
    return features.shape[1 if features.dim() == 4 else -1]


def check_sizes(pairs: list[tuple[Tensor, Tensor]], remedy: str) -> None:
    """Raise ``ValueError`` unless all levels agree in everything but the width.

    Args:
        pairs: Student's and teacher's tensor of every level.
        remedy: What to do about maps of different height and width; empty if
            they may differ.
    """
    for level, (s, t) in enumerate(pairs):
        if s.dim() != t.dim():
            rule, advice = 'one layout', ''
        elif s.dim() == 4 and s.shape[2:] != t.shape[2:] and remedy:
            rule, advice = 'maps of one size', f'; {remedy}'
        elif s.dim() != 4 and s.shape[:-1] != t.shape[:-1]:
            rule, advice = 'sequences of one length', ''
        else:
            continue
        raise ValueError(
            f'level {level}: student and teacher must yield {rule} for the same '
            f'image but yield {tuple(s.shape)} and {tuple(t.shape)}{advice}'
        )
