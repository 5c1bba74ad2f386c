# A tiny student: stock GFL on MobileNetV2 0.35, from scratch unless `init_cfg` of the
# backbone names weights of that width.
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=0.35,
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
    neck=dict(in_channels=[8, 16, 32, 112], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
# MobileNetV2 has a last convolution that nothing here reads.
find_unused_parameters = True
