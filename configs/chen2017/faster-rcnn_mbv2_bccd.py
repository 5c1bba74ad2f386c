# The teacher of the BCCD pair: stock Faster R-CNN on MobileNetV2 1.0 with ImageNet
# weights; fewer channels, anchors and RoIs than on COCO.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/bccd_detection.py',
    '../_base_/schedule_12e_adamw.py',
    'mmdet::_base_/default_runtime.py',
]
strides = [8, 16, 32, 64]
norm = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6),
        init_cfg=dict(
            type='Pretrained', checkpoint='data/weights/mobilenet_v2_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(
        in_channels=[32, 96, 320], out_channels=64, num_outs=len(strides), norm_cfg=norm
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64, featmap_strides=strides[:-1], finest_scale=28
        ),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
# MobileNetV2 has a last convolution that nothing here reads.
find_unused_parameters = True
