_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
    losses=dict(
        loss_mgd=dict(type='mmkd.MGDLoss', at='neck', mask_ratio=0.65, loss_weight=1e-4)
    ),
)
