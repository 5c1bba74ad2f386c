_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
    losses=dict(
        loss_pkd=dict(
            type='mmkd.PKDLoss',
            at='neck',
            levels=[(0, 0), (1, 1), (2, 2), (3, 3)],
            loss_weight=24,
        )
    ),
)
