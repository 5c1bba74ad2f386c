"""Stock Semantic FPN on MobileNetV2 0.25, from scratch: the student on CamVid."""

_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/camvid_segmentation.py',
    '../_base_/schedule_1000i_adamw.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(144, 192)),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=0.25,
        out_indices=(1, 2, 4, 6),
        norm_cfg=norm_cfg,
    ),
    neck=dict(in_channels=[8, 8, 24, 80], out_channels=32),
    decode_head=dict(
        in_channels=[32, 32, 32, 32], channels=32, num_classes=11, norm_cfg=norm_cfg
    ),
)
