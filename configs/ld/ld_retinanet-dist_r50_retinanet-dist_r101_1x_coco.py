_base_ = 'retinanet-dist_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::ld/retinanet-dist_r101_fpn_2x_coco.py',
        checkpoint='work_dirs/retinanet-dist_r101_fpn_2x_coco/epoch_24.pth',
    ),
    losses=dict(
        loss_ld=dict(
            type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=34
        ),
        loss_ld_vlr=dict(
            type='mmkd.LocalizationDistillationLoss',
            region='vlr',
            temperature=10,
            loss_weight=21,
        ),
        loss_kd=dict(
            type='mmkd.ClassificationDistillationLoss', temperature=8, loss_weight=40
        ),
    ),
)
