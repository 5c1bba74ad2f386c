_base_ = '_base_/fpn_digits.py'
model = dict(
    backbone=dict(base_channels=24, stem_channels=24),
    neck=dict(in_channels=[24, 48, 96], out_channels=32),
    decode_head=dict(in_channels=[32, 32, 32], channels=32),
)
