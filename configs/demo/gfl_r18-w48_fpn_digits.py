_base_ = '_base_/gfl_digits.py'
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[96, 192], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
