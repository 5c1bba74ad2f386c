# A tiny classifier: stock MobileNetV2 0.35 of MMPretrain, which must be installed.
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
model = dict(backbone=dict(widen_factor=0.35))
