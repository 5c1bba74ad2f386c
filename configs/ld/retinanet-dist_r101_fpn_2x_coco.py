# RetinaNet with a distribution per edge, the teacher.
_base_ = 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    bbox_head=dict(
        type='mmkd.DistributionalRetinaHead',
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
    )
)
