"""Losses on the rows of a dense head: which priors take part, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from ..batch import Batch
from ..taps import HeadView
from .base import DistillLoss
from .precision import check_temperature
from .valuable_localization_region import valuable_localization_region

NORMALIZERS = ('avg_factor', 'paper')


@dataclass
class Rows:
    """Selected priors.

    Args:
        index: Their rows in the head's outputs, shape (R,).
        weight: Weight of every one of them, shape (R,), float.
        share: Their share of all priors.
    """

    index: Tensor
    weight: Tensor
    share: Tensor


def total_over_ranks(values: Tensor) -> Tensor:
    """Sum of values, its mean over ranks, + 1e-6: an averaging factor.

    The mean, because DDP averages gradients: two ranks then do what one process
    does with both batches. No clamp at 1: a fresh head's scores sum to less, and
    its loss would grow with the batch.

    Example:
        >>> total_over_ranks(torch.tensor([0.25, 0.5]))
        tensor(0.7500)
    """
    total = values.sum()
    all_reduce(total, 'mean')
    return total + 1e-6


class HeadRowsLoss(DistillLoss):
    """Base of the losses on a region of a dense head's priors.

    Args:
        at: Tapped dense head of the student.
        region: ``'main'`` (the student's positives), ``'vlr'`` (the valuable
            localization region without them) or ``'all'``.
        temperature: Softmax temperature; must be > 0.
        loss_weight: Factor of the term.
        normalize: ``'avg_factor'`` or ``'paper'``.
        teacher_at: Tapped head of the teacher; ``at`` if not given.
    """

    #: Regions that the subclass offers.
    regions: tuple[str, ...] = ()
    #: Whether both heads must predict distributions of edges.
    needs_distributions = False
    #: Whether the classes of both heads must be the same.
    same_classes = True

    def __init__(
        self,
        at: str,
        region: str,
        temperature: float,
        loss_weight: float,
        normalize: str,
        teacher_at: str | None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        check_temperature(temperature)
        for name, value, allowed in (
            ('region', region, self.regions),
            ('normalize', normalize, NORMALIZERS),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed} but is {value!r}')
        self.region = region
        self.temperature = temperature
        self.normalize = normalize

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is None or teacher is None:
            raise ValueError(
                f'{type(self).__name__} needs a dense head that runs on a synthetic '
                f'image but {self.at!r} of the student or {self.teacher_at!r} of the '
                'teacher does not'
            )
        check_heads(student, teacher, self.needs_distributions, self.same_classes)
        if student.obstacle:
            raise ValueError(f'{type(self).__name__}: {student.obstacle}')

    def rows(self, student: Any, batch: Batch | None) -> Rows:
        """The priors of the region, on the student's side.

        Args:
            student: View of its head.
            batch: The batch; its boxes define the VLR.

        Returns:
            The selected rows.
        """
        if self.region == 'main':
            weight = student.positives.float()
        elif self.region == 'vlr':
            weight = vlr_weights(student, batch).masked_fill(student.positives, 0)
        else:
            weight = student.label_weights.float()
        index = weight.nonzero().squeeze(1)
        share = weight.new_tensor(len(index) / max(len(weight), 1))
        rows = Rows(index, weight[index], share)
        rows.weight = self.row_weights(student, rows).float()
        return rows

    def places(self, student: Any, batch: Batch) -> Tensor:
        return self.rows(student, batch).index

    def row_weights(self, student: Any, rows: Rows) -> Tensor:
        """Weight of every selected row, (R,); defined by the subclass."""
        raise NotImplementedError(f'{type(self).__name__} must define row_weights()')

    def _log(self, rows: Rows, divergence: Tensor, batch: Batch | None) -> None:
        """Mean KL per row in nats, and the region's share, to be looked at."""
        if batch is not None:
            batch.logs.update(kl=divergence.detach(), share=rows.share)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, region={self.region!r}'


def vlr_weights(view: Any, batch: Batch | None) -> Tensor:
    """IoU weight of the priors in the VLR of any object of their image.

    Args:
        view: View of the student's dense head.
        batch: The batch.

    Returns:
        Weights, shape (rows,); 0 outside.
    """
    if batch is None:
        raise ValueError('the valuable localization region needs the batch')
    priors = torch.cat(view.priors)
    level = torch.arange(len(view.priors), device=priors.device).repeat_interleave(
        torch.tensor([len(p) for p in view.priors], device=priors.device)
    )
    weights = []
    for boxes, valid in zip(batch.gt_boxes, view.valid_priors(batch)):
        # Padding of the batch is no place for candidates: one at a time, images
        # must not know of each other.
        sizes = torch.bincount(level[valid], minlength=len(view.priors)).tolist()
        weight = priors.new_zeros(len(priors))
        weight[valid] = valuable_localization_region(
            priors[valid], sizes, boxes.to(priors)
        )[1]
        weights.append(weight)
    return view.to_rows(torch.stack(weights))


def check_heads(
    student: Any,
    teacher: Any,
    distributions: bool,
    classes: bool = True,
    anchors: bool = False,
) -> None:
    """Raise ``ValueError`` unless the rows of both heads mean the same.

    Args:
        student: View of the student's head.
        teacher: View of the teacher's head.
        distributions: Whether they must predict distributions of edges.
        classes: Whether they must predict the same classes.
        anchors: Whether they must have the same anchors: edges of distributions are
            counted in bins, deltas of boxes from the anchor.
    """
    views: dict[str, Any] = dict(student=student, teacher=teacher)
    names = {s: getattr(v, 'name', type(v).__name__) for s, v in views.items()}
    for side, view in views.items():
        is_dense_head = isinstance(view, HeadView) and hasattr(view, 'strides')
        if not is_dense_head:
            raise ValueError(
                f'the {side} must be tapped at a dense head, such as '
                "at='bbox_head', with priors of known strides, but the tap yields "
                f'{names[side]}'
            )
        if distributions and view.bins is None:
            raise ValueError(
                f"the {side}'s head must predict a distribution per edge but the "
                f'student has {names["student"]}, the teacher {names["teacher"]}; use '
                'GFLHead, or train with the head type '
                'mmkd.DistributionalRetinaHead, mmkd.DistributionalFCOSHead or '
                'mmkd.DistributionalATSSHead'
            )
    rules = [
        ('strides', 'strides', 'give both heads the same levels'),
        ('num_priors', 'priors per location', 'give both heads the same priors'),
        ('sizes', 'maps (height, width)', 'use networks of the same strides'),
    ]
    if anchors:
        rules.append(
            ('anchors', 'anchors', 'give both heads the same anchor generator')
        )
    if classes:
        rules += [
            ('num_classes', 'classes', 'use a teacher of the same classes'),
            ('num_logits', 'class logits', 'use sigmoids or softmax in both heads'),
        ]
    if distributions:
        rules += [
            ('bins', 'bins (reg_max + 1)', 'give both heads the same reg_max'),
            ('bin_sizes', 'pixels per bin', 'give both heads the same priors'),
            ('origins', 'centres of priors', 'FCOS has others than anchor heads'),
        ]
    for attribute, what, remedy in rules:
        ours, theirs = getattr(student, attribute), getattr(teacher, attribute)
        if ours != theirs:
            raise ValueError(
                f'student and teacher must have the same {what} but {student.name} has '
                f'{ours} and {teacher.name} has {theirs}; {remedy}'
            )
