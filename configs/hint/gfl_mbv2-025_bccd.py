# The student of the BCCD pair: a quarter of the width, from scratch.
_base_ = 'gfl_mbv2_bccd.py'
model = dict(
    backbone=dict(widen_factor=0.25, init_cfg=None),
    neck=dict(in_channels=[8, 24, 80], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32),
)
