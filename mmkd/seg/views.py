"""What MMSegmentation's decode heads predict and are taught, by name."""

from __future__ import annotations

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ..taps import HeadView, Tap


class DecodeHeadView(HeadView):
    """A decode head in one step."""

    methods = ('forward', 'cls_seg', 'loss_by_feat')

    @property
    def logits(self) -> list[Tensor]:
        """Score maps before resizing, (N, C, H, W); some heads supervise several."""
        outputs = self.outputs
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    @property
    def features(self) -> Tensor:
        """Input of the classifying convolution ``conv_seg``, (N, D, H, W)."""
        calls = self.calls.get('cls_seg')
        if not calls:
            raise ValueError(f'{type(self.module).__name__} has no conv_seg')
        return calls[-1].args[0]

    @property
    def labels(self) -> Tensor:
        """Label maps at full resolution, (N, H, W); 255 is ignored."""
        calls = self.calls.get('loss_by_feat')
        if not calls:
            raise RuntimeError(
                f'{self.path!r} got no labels: they exist in the student only'
            )
        samples = calls[-1].args[1]
        return torch.stack([sample.gt_sem_seg.data[0] for sample in samples])

    @property
    def valid(self) -> Tensor:
        """Boolean mask of the labelled pixels, (N, H, W)."""
        return self.labels.ne(self.module.ignore_index)


def tap_of(module: nn.Module) -> type[Tap]:
    """The tap for a sub-module of a segmentor."""
    return DecodeHeadView if isinstance(module, BaseDecodeHead) else Tap
