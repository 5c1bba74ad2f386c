_base_ = 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::gfl/gfl_r101-dconv-c3-c5_fpn_ms-2x_coco.py',
    losses=dict(
        loss_ld=dict(
            type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=15
        ),
        loss_ld_vlr=dict(
            type='mmkd.LocalizationDistillationLoss',
            region='vlr',
            temperature=10,
            loss_weight=30,
        ),
        loss_kd=dict(
            type='mmkd.ClassificationDistillationLoss', temperature=2, loss_weight=35
        ),
    ),
)
