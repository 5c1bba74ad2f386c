"""What MMDetection's dense heads are taught: the layouts of ``get_targets``."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from mmdet.models.dense_heads import (
    AnchorHead,
    ATSSHead,
    FCOSHead,
    GFLHead,
    GuidedAnchorHead,
    LDHead,
    RPNHead,
    StageCascadeRPNHead,
)
from torch import Tensor

from ..taps import HeadView
from .roi_views import mean_count

#: What `get_targets` returns in MMDetection 3: point-based heads, anchor-based
#: ones, and those (ATSS, GFL, ...) that hand the anchors on. All per level.
_LAYOUTS = {
    2: ('labels', 'box_targets'),
    5: ('labels', 'label_weights', 'box_targets', 'box_weights', 'avg_factor'),
    6: (
        'anchors',
        'labels',
        'label_weights',
        'box_targets',
        'box_weights',
        'avg_factor',
    ),
}

#: Losses that are computed on targets of these layouts.
_KNOWN_LOSSES = {
    head.loss_by_feat
    for head in (AnchorHead, RPNHead, ATSSHead, GFLHead, LDHead, FCOSHead)
}


def obstacle_of(head: Any) -> str | None:
    """Why a dense head's rows and targets cannot be distilled; ``None`` if they can."""
    name = type(head).__name__
    if isinstance(head, (GuidedAnchorHead, StageCascadeRPNHead)):
        return f'{name} predicts its anchors: those of two networks differ'
    if type(head).loss_by_feat not in _KNOWN_LOSSES:
        return f'{name} has targets and a loss of its own'
    return None


def targets_of(view: HeadView) -> dict[str, Any]:
    """The targets that a head has assigned in this step, by name.

    Args:
        view: View of the student's head, whose ``get_targets`` was recorded.

    Returns:
        Name -> what the head returned, one part per level.

    Raises:
        RuntimeError: If there are none: the teacher assigns nothing.
        ValueError: If the head's targets have a layout of their own.
    """
    if not view.calls.get('get_targets'):
        raise RuntimeError(
            f'{view.path!r} assigned no targets: they exist in the student only, '
            'after its own loss'
        )
    output = view.calls['get_targets'][0].output
    name = type(view.module).__name__
    names = _LAYOUTS.get(len(output))
    if names is None:
        raise ValueError(
            f'targets of {name} have an unknown layout of {len(output)} parts'
        )
    targets = dict(zip(names, output))
    labels = targets['labels']
    # TOOD returns five parts, too, of which the first are its anchors.
    if not isinstance(labels, (list, tuple)) or labels[0].is_floating_point():
        raise ValueError(f'targets of {name} have an unknown layout')
    return targets


class DenseTargets(HeadView):
    """The part of a dense head's view that is about its targets, one row per prior."""

    @property
    def labels(self) -> Tensor:
        """Class of every prior, (rows,); ``num_classes`` stands for background."""
        return self._target('labels')

    @property
    def label_weights(self) -> Tensor:
        """Weight of every prior in the classification loss, (rows,); 1 in FCOS."""
        if 'label_weights' not in targets_of(self):
            return torch.ones_like(self.labels, dtype=torch.float32)
        return self._target('label_weights')

    @property
    def box_targets(self) -> Tensor:
        """Regression targets as the head's own loss takes them, (rows, 4)."""
        return self._target('box_targets')

    @property
    def positives(self) -> Tensor:
        """Boolean mask of the priors that are assigned to an object, (rows,)."""
        return (self.labels >= 0) & (self.labels < self.module.num_classes)

    @cached_property
    def avg_factor(self) -> float:
        """Averaging factor of the head's losses: its mean over ranks, at least 1."""
        factor = targets_of(self).get('avg_factor')
        if factor is None:  # FCOS counts its positives itself
            factor = int(self.positives.sum())
        return mean_count(factor, self.labels.device)

    @property
    def class_factor(self) -> float:
        """Divisor of terms on classes: :attr:`avg_factor`."""
        return self.avg_factor

    @property
    def box_factor(self) -> float:
        """Divisor of terms on boxes: :attr:`avg_factor`."""
        return self.avg_factor

    def _target(self, name: str) -> Tensor:
        values = targets_of(self)
        if name not in values:
            raise ValueError(f'{type(self.module).__name__} has no {name}')
        # (N, priors) or (N, priors, 4) per level, joined over images in FCOS.
        shape = (-1, 4) if name == 'box_targets' else (-1,)
        return torch.cat([level.reshape(shape) for level in values[name]])
