"""What MMDetection's dense heads predict and are taught, by name."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..taps import HeadView, Tap


class DenseHeadView(HeadView):
    """A dense head (RetinaNet, ATSS, GFL, FCOS, ...) in one step.

    The targets are the ones the head computed for its own loss; assigning
    them again would cost time, and random samplers would draw others.
    """

    methods = ('forward', 'get_targets')

    @property
    def logits(self) -> list[Tensor]:
        return list(self.outputs[0])

    @property
    def boxes(self) -> list[Tensor]:
        """Box deltas or edge distributions, (N, A * 4 * bins, H, W) per level."""
        return list(self.outputs[1])

    @property
    def class_rows(self) -> Tensor:
        """Class logits, one row per prior: (rows, C), level by level, then image."""
        return _rows(self.logits, self.module.cls_out_channels)

    @property
    def box_rows(self) -> Tensor:
        """Box outputs, one row per prior: (rows, 4 * bins)."""
        priors = [
            logits.shape[1] // self.module.cls_out_channels for logits in self.logits
        ]
        return _rows(self.boxes, self.boxes[0].shape[1] // priors[0])

    @property
    def labels(self) -> Tensor:
        """Class of every prior, (rows,); ``num_classes`` stands for background."""
        return self._target('labels')

    @property
    def label_weights(self) -> Tensor:
        """Weight of every prior in the classification loss, (rows,)."""
        return self._target('label_weights')

    @property
    def box_targets(self) -> Tensor:
        """Regression targets in the head's own units, (rows, 4)."""
        return self._target('box_targets')

    @property
    def positives(self) -> Tensor:
        """Boolean mask of the priors that are assigned to an object, (rows,)."""
        return (self.labels >= 0) & (self.labels < self.module.num_classes)

    @property
    def avg_factor(self) -> float:
        """Averaging factor of the head's losses: its mean over ranks, at least 1."""
        factor = self._targets().get('avg_factor')
        if factor is None:  # FCOS counts its positives itself
            factor = int(self.positives.sum())
        total = torch.tensor(float(factor), device=self.labels.device)
        all_reduce(total, 'mean')
        return max(total.item(), 1.0)

    def _target(self, name: str) -> Tensor:
        values = self._targets()
        if name not in values:
            raise ValueError(f'{type(self.module).__name__} has no {name}')
        # (N, priors) or (N, priors, 4) per level, joined over images in FCOS.
        shape = (-1, 4) if name == 'box_targets' else (-1,)
        return torch.cat([level.reshape(shape) for level in values[name]])

    def _targets(self) -> dict[str, Any]:
        if not self.calls.get('get_targets'):
            raise RuntimeError(
                f'{self.path!r} assigned no targets: they exist in the student only, '
                'after its own loss'
            )
        output = self.calls['get_targets'][0].output
        names = _LAYOUTS.get(len(output))
        if names is None:
            raise ValueError(
                f'targets of {type(self.module).__name__} have an unknown layout of '
                f'{len(output)} parts'
            )
        targets = dict(zip(names, output))
        labels = targets['labels']
        # TOOD returns five parts, too, of which the first are its anchors.
        if not isinstance(labels, (list, tuple)) or labels[0].is_floating_point():
            raise ValueError(
                f'targets of {type(self.module).__name__} have an unknown layout'
            )
        return targets


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


def tap_of(module: nn.Module) -> type[Tap]:
    """The tap for a sub-module of a detector."""
    return DenseHeadView if isinstance(module, BaseDenseHead) else Tap


def _rows(maps: list[Tensor], width: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, width) for m in maps])
