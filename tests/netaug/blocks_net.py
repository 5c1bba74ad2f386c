"""A small network of blocks that NetAug extends."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import nn
from toy import ToyNet, student

NORMS = dict(
    BN=dict(type='BN'),
    GN=dict(type='GN', num_groups=4),
    SyncBN=dict(type='SyncBN'),
)


def block(kind: str, norm: dict) -> nn.Module:
    """A block of 8 channels on 8 channels."""
    # mmkd makes mmdet importable, in whatever order a file imports.
    from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
    from mmdet.models.layers import CSPLayer, InvertedResidual

    if kind == 'inverted':
        return InvertedResidual(8, 8, 24, norm_cfg=norm)
    if kind == 'basic':
        return BasicBlock(8, 8, norm_cfg=norm)
    if kind == 'bottleneck':
        return Bottleneck(
            8,
            2 if norm['type'] != 'GN' else 4,
            norm_cfg=norm,
            downsample=None if norm['type'] != 'GN' else _to(16, norm),
        )
    depthwise = kind in ('darknet', 'cspnext')
    return CSPLayer(
        8,
        8,
        use_depthwise=depthwise,
        use_cspnext_block=kind == 'cspnext',
        expand_ratio=1.0,
        norm_cfg=norm,
    )


def _to(channels: int, norm: dict) -> nn.Module:
    return nn.Conv2d(8, channels, 1)


@MODELS.register_module(force=True)
class BlocksNet(ToyNet):
    """The toy model with a block in its backbone."""

    def __init__(self, kind='inverted', block_norm='BN', **options) -> None:
        super().__init__(**options)
        if kind == 'mobile':  # a stem, blocks with and without a shortcut
            self.backbone = MODELS.build(
                dict(
                    type='mmdet.MobileNetV2',
                    widen_factor=0.1,
                    out_indices=(1,),
                    norm_cfg=NORMS[block_norm],
                )
            )
            for part in ('layer3', 'layer4', 'layer5', 'layer6', 'layer7', 'conv2'):
                self.backbone.layers.remove(part)
                delattr(self.backbone, part)
            self.neck = nn.Conv2d(8, 8, 3, 2, 1)
            return
        self.backbone.append(block(kind, NORMS[block_norm]))
        if kind == 'bottleneck' and block_norm == 'GN':
            self.neck = nn.Conv2d(16, 8, 3, 2, 1)

    def logits(self, inputs):
        features = self.backbone(inputs)
        if isinstance(features, tuple):
            (features,) = features
        return self.head(self.neck(self.dropout(features)))


def blocks_net(**changes) -> dict:
    return student(type='BlocksNet', **changes)


def augmented(
    expand=(1, 1.6, 2.2), width=None, aug_weight=1.0, shared=False, **changes
) -> dict:
    return dict(
        type='mmkd.NetAug',
        model=blocks_net(**changes),
        expand=expand,
        width=width,
        aug_weight=aug_weight,
        shared_statistics=shared,
    )
