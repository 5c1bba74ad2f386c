"""The teacher on CamVid: the student's stock model at full width, from ImageNet."""

_base_ = 'fpn_mbv2-025_camvid.py'
model = dict(
    backbone=dict(
        widen_factor=1.0,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/weights/mobilenet_v2_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 320], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))))
max_iters = 3000
train_cfg = dict(max_iters=max_iters, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='PolyLR', eta_min=1e-6, power=0.9, begin=100, end=max_iters, by_epoch=False
    ),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
