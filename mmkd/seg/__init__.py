"""Distillation of MMSegmentation's segmentors."""

from __future__ import annotations

from torch import nn

from ..distill import Distill
from ..registry import MODELS
from ..taps import Tap

__all__ = ['DistillSegmentor']


@MODELS.register_module()
class DistillSegmentor(Distill):
    """A stock segmentor with a teacher; see :class:`mmkd.distill.Distill`.

    Tapping a decode head, such as ``at='decode_head'``, yields a
    :class:`~mmkd.seg.views.DecodeHeadView`.
    """

    def tap_of(self, module: nn.Module) -> type[Tap]:
        from .views import tap_of  # mmseg is imported when a segmentor is built

        return tap_of(module)
