_base_ = 'ld_gfl_r50_gfl_r101_1x_coco.py'
model = dict(
    student=dict(
        backbone=dict(
            depth=18,
            init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
        ),
        neck=dict(in_channels=[64, 128, 256, 512]),
    )
)
