_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
    losses=dict(
        loss_dkd=dict(
            type='mmkd.DKDLoss', at='roi_head.bbox_head', alpha=1.0, beta=0.25
        )
    ),
)
