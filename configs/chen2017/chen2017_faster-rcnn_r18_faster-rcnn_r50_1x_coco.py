_base_ = 'chen2017_faster-rcnn_r50_faster-rcnn_r101_1x_coco.py'
model = dict(
    student=dict(
        backbone=dict(
            depth=18,
            init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
        ),
        neck=dict(in_channels=[64, 128, 256, 512]),
    ),
    teacher='mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py',
)
