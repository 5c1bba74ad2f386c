_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py',
    losses=dict(
        loss_mgd=dict(type='mmkd.MGDLoss', at='neck', mask_ratio=0.65, loss_weight=1e-4)
    ),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the authors'
