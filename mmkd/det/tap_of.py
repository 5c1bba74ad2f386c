"""How the parts of MMDetection's detectors are tapped."""

from __future__ import annotations

from mmdet.models.dense_heads import (
    ATSSVLFusionHead,
    DETRHead,
    EmbeddingRPNHead,
    MaskFormerHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.base_mask_head import BaseMaskHead
from mmdet.models.roi_heads.mask_heads import (
    FCNMaskHead,
    GridHead,
    MaskIoUHead,
    MaskPointHead,
)
from torch import nn

from ..taps import Tap
from .roi_views import RoIHeadView, are_box_heads
from .views import DenseHeadView


class MaskHeadTap(Tap):
    """A mask head that runs on whole images, such as SOLO's: its maps.

    In evaluation SOLO returns probabilities, resized and thinned out.
    """

    training_outputs = True


#: Heads whose outputs belong to what each network chose itself, and what they are.
_OWN_CHOICE = {
    DETRHead: 'boxes of queries',
    MaskFormerHead: 'masks of queries',
    EmbeddingRPNHead: 'boxes of queries',
    FCNMaskHead: 'masks of regions',
    GridHead: 'grid points of regions',
    MaskIoUHead: 'scores of regions',
    MaskPointHead: 'points of regions',
}


def tap_of(module: nn.Module) -> type[Tap]:
    """The tap for a sub-module of a detector.

    Raises:
        ValueError: If what it predicts belongs together in no two networks.
    """
    if isinstance(module, ATSSVLFusionHead):
        raise ValueError(
            f'{type(module).__name__} scores the words of a text, which it is given in '
            "training and prediction only; tap at='neck' or at='backbone'"
        )
    first = module[0] if isinstance(module, nn.ModuleList) and len(module) else module
    for kind, what in _OWN_CHOICE.items():
        if isinstance(first, kind):
            raise ValueError(
                f'{type(first).__name__} predicts {what} that each network chooses '
                'itself, so those of two networks do not belong together; tap '
                "at='neck' or at='backbone'"
            )
    if isinstance(module, BaseDenseHead):
        return DenseHeadView
    if isinstance(module, BaseMaskHead):
        return MaskHeadTap
    return RoIHeadView if are_box_heads(module) else Tap
