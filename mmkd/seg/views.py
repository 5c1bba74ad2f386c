"""What MMSegmentation's decode heads predict and are taught, by name."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ..taps import HeadView, Tap

#: Heads that return several maps in training: which one they predict with.
MAIN_OUTPUT = {
    'DAHead': 0,
    'EncHead': 0,
    'DDRHead': 0,
    'PIDHead': 1,
    'IterativeDecodeHead': -1,
}
#: Backbones that return a tuple in training: which part of it they return in eval.
MAIN_FEATURES = {'PIDNet': 1, 'DDRNet': 1}
_BACKBONE = (
    "tap the backbone (at='backbone') with a loss on features, such as "
    'mmkd.FeatureImitationLoss'
)
#: Heads without a score map: what they predict, and what to do.
NO_SCORE_MAP = {
    'MaskFormerHead': ('masks of queries', _BACKBONE),
    'SideAdapterCLIPHead': ('masks of queries', _BACKBONE),
    'PointHead': (
        'scores of single points',
        "tap the head before it (at='decode_head.0')",
    ),
    'VPDDepthHead': ('depths', _BACKBONE),
}


class DecodeHeadView(HeadView):
    """A decode head in one step; of a cascade of them the last one."""

    methods = ('forward', 'cls_seg', 'loss_by_feat')
    keeps_arguments = ('cls_seg', 'loss_by_feat')
    #: In evaluation a head returns the map that it predicts with, and a backbone what
    #: the head needs for that: PIDNet and DDRNet fail on half of it.
    training_outputs = False

    def __init__(
        self, path: str, module: nn.Module, model: nn.Module | None = None
    ) -> None:
        super().__init__(path, _last(module), model)

    @property
    def count(self) -> int:
        """1 if it ran: a cascade calls all heads but the last once more."""
        return min(len(self.calls['forward']), 1)

    @property
    def logits(self) -> list[Tensor]:
        """The score map that the head predicts with, (N, C, H, W), before resizing."""
        outputs = self.calls['forward'][0].output  # the one that its loss saw
        if isinstance(outputs, Tensor):
            return [outputs]
        for name in _class_names(self.module):
            if name in MAIN_OUTPUT:
                return [outputs[MAIN_OUTPUT[name]]]
        raise ValueError(
            f'{type(self.module).__name__} returns several maps and it is not known '
            'which one it predicts with; tap a sub-module of it that yields one'
        )

    @property
    def features(self) -> Tensor:
        """Input of the classifying convolution ``conv_seg``, (N, D, H, W).

        That is before the head's dropout, which only the student would have.
        """
        calls = self.calls.get('cls_seg')
        if not calls:
            raise ValueError(
                f'{type(self.module).__name__} does not classify by a conv_seg whose '
                'input could be read; name a module that yields its features by at and '
                'teacher_at'
            )
        return calls[0].args[0]

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

    def labels_at(self, like: Tensor) -> Tensor:
        """Labels of the cells of a smaller map: that of the pixel at their centre.

        Args:
            like: Map of shape (N, C, h, w) that the head would resize to the labels.

        Returns:
            Classes, (N, 1, h, w); 255 is ignored.
        """
        labels = self.labels
        rows, columns = (
            self._centres(pixels, cells, like.device)
            for pixels, cells in zip(labels.shape[1:], like.shape[2:])
        )
        return labels[:, None, rows[:, None], columns]

    def valid_at(self, like: Tensor) -> Tensor:
        """Which cells of a smaller map have a labelled pixel at their centre.

        Args:
            like: Map of shape (N, C, h, w) that the head would resize to the labels.

        Returns:
            Boolean mask, (N, 1, h, w).
        """
        return self.labels_at(like).ne(self.module.ignore_index)

    def _centres(self, pixels: int, cells: int, device: torch.device) -> Tensor:
        """Where ``F.interpolate`` puts the cells among the pixels."""
        cell = torch.arange(cells, device=device, dtype=torch.float64)
        if self.module.align_corners and cells > 1:
            return (cell * (pixels - 1) / (cells - 1)).round().long()
        return ((cell + 0.5) * pixels / cells).floor().long()


class BranchesTap(Tap):
    """A backbone of several branches: in the teacher, too, all that training yields.

    In evaluation these return what the head predicts from alone.
    """

    training_outputs = True

    def returned(self, name: str, output: Any) -> Any:
        # The teacher's head stays in evaluation mode.
        if self.model.training or not isinstance(output, tuple):
            return output
        (main,) = {
            MAIN_FEATURES[n] for n in _class_names(self.module) if n in MAIN_FEATURES
        }
        return output[main]


def tap_of(module: nn.Module) -> type[Tap]:
    """The tap for a sub-module of a segmentor.

    Raises:
        ValueError: If it is a head that predicts no score map.
    """
    head: Any = _last(module)
    for name in _class_names(head):
        if name in NO_SCORE_MAP:
            what, remedy = NO_SCORE_MAP[name]
            raise ValueError(
                f'{type(head).__name__} predicts {what}, no score map that could be '
                f'tapped; {remedy}'
            )
    if isinstance(head, BaseDecodeHead):
        return DecodeHeadView
    has_branches = not MAIN_FEATURES.keys().isdisjoint(_class_names(module))
    return BranchesTap if has_branches else Tap


def _last(module: nn.Module) -> nn.Module:
    """The last head of a list of them; any other module as it is."""
    if isinstance(module, nn.ModuleList) and len(module):
        return module[-1] if isinstance(module[0], BaseDecodeHead) else module
    return module


def _class_names(module: nn.Module) -> list[str]:
    return [cls.__name__ for cls in type(module).__mro__]
