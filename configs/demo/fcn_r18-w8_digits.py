_base_ = '_base_/fcn_digits.py'
model = dict(
    backbone=dict(base_channels=8),
    decode_head=dict(in_channels=32, channels=16),
)
