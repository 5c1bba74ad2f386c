_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    losses=dict(loss_fgd=dict(type='mmkd.FGDLoss', at='neck', loss_weight=5)),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the authors'
