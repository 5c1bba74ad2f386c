_base_ = '_base_/gfl_digits.py'
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[16, 32], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
)
