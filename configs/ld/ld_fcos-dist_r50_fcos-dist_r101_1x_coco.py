_base_ = 'fcos-dist_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::ld/fcos-dist_r101_fpn_2x_coco.py',
        checkpoint='work_dirs/fcos-dist_r101_fpn_2x_coco/epoch_24.pth',
    ),
    losses=dict(
        loss_ld=dict(
            type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=15
        ),
        loss_ld_vlr=dict(
            type='mmkd.LocalizationDistillationLoss',
            region='vlr',
            temperature=10,
            loss_weight=22,
        ),
        loss_kd=dict(
            type='mmkd.ClassificationDistillationLoss', temperature=2, loss_weight=35
        ),
    ),
)
