"""Adapters: what brings the student's features to the teacher's width."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from .registry import MODELS

LAYERS = ('conv', 'linear')

#: ``adapter=dict(type='mmkd.Identity')`` imitates features of equal width as they are.
MODELS.register_module('Identity', module=nn.Identity)


@MODELS.register_module()
class FeatureImitationNeck(BaseModule):
    """One 1x1 convolution per level.

    Used by the losses on the student's side, and as a stock ``neck`` entry (a
    neck that only changes widths).

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge
        Distillation, NIPS 2017

    Args:
        in_channels: Width of every level, or one number for a single level.
        out_channels: Width after adaptation, one number or one per level.
        layer: ``'conv'`` for maps of shape (N, C, H, W), ``'linear'`` for
            vectors (N, C) and token sequences (N, L, C); one, or one per level.
        init_cfg: Initialisation as of any stock module.

    Raises:
        ValueError: If the numbers of levels differ or the layer is unknown.

    Example:
        >>> import torch
        >>> neck = FeatureImitationNeck(in_channels=[8, 16], out_channels=32)
        >>> x = torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2)
        >>> [tuple(y.shape) for y in neck(x)]
        [(1, 32, 4, 4), (1, 32, 2, 2)]
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int | Sequence[int],
        layer: str | Sequence[str] = 'conv',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        ins = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        outs = (
            [out_channels] * len(ins)
            if isinstance(out_channels, int)
            else list(out_channels)
        )
        kinds = [layer] * len(ins) if isinstance(layer, str) else list(layer)
        if len(ins) != len(outs) or len(ins) != len(kinds):
            raise ValueError(
                'in_channels, out_channels and layer must have one entry per level but '
                f'have {len(ins)}, {len(outs)} and {len(kinds)}'
            )
        for kind in kinds:
            if kind not in LAYERS:
                raise ValueError(f'layer must be one of {LAYERS} but is {kind!r}')
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 1) if kind == 'conv' else nn.Linear(i, o)
            for i, o, kind in zip(ins, outs, kinds)
        )

    def forward(self, features: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adapt the features of all levels.

        Args:
            features: One tensor per level, or the tensor of a single level.

        Returns:
            One tensor per level.

        Raises:
            ValueError: If there are more or fewer levels than convolutions.
        """
        if isinstance(features, Tensor):
            features = (features,)
        if len(features) != len(self.convs):
            raise ValueError(
                f'the adapter has {len(self.convs)} levels but got {len(features)}'
            )
        return tuple(conv(x) for conv, x in zip(self.convs, features))


def build_adapter(cfg: dict) -> nn.Module:
    """Build an adapter; ``type`` defaults to :class:`FeatureImitationNeck`.

    Args:
        cfg: Arguments of the adapter.

    Returns:
        A module that maps a tuple of features to a tuple of features, initialised
        as its ``init_cfg`` says, where it has one.

    Example:
        >>> build_adapter(dict(in_channels=8, out_channels=16)).convs[0]
        Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))
    """
    adapter = MODELS.build({'type': 'mmkd.FeatureImitationNeck', **cfg})
    # The model's own init_weights() never sees the distiller.
    if getattr(adapter, 'init_cfg', None):
        adapter.init_weights()
    return adapter
