"""Distillation of MMDetection's detectors."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..distill import Distill
from ..registry import MODELS
from ..taps import Tap

__all__ = ['DistillDetector']


@MODELS.register_module()
class DistillDetector(Distill):
    """A stock detector with a teacher; see :class:`mmkd.distill.Distill`.

    Tapping a dense head, such as ``at='bbox_head'``, yields a
    :class:`~mmkd.det.views.DenseHeadView`.
    """

    def tap_of(self, module: nn.Module) -> type[Tap]:
        # mmdet is imported when a detector is built
        from mmdet.models.detectors import TridentFasterRCNN

        from .tap_of import tap_of

        if isinstance(self, TridentFasterRCNN):
            raise ValueError(
                'TridentFasterRCNN trains on a copy of every picture for each of its '
                'branches and predicts by one of them, so that no teacher yields what '
                'fits; it can be a teacher, but no student'
            )
        return tap_of(module)

    def row_rule(self, module: nn.Module) -> dict[str, Any]:
        from .static_targets import row_rule

        return row_rule(module)
