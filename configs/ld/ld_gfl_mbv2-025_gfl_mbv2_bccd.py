# Weights chosen with seed 100 on the short schedule: README.md.
_base_ = '../hint/gfl_mbv2-025_bccd.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::hint/gfl_mbv2_bccd.py',
        checkpoint='work_dirs/gfl_mbv2_bccd/epoch_12.pth',
    ),
    losses=dict(
        loss_ld=dict(
            type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=0.5
        ),
        loss_ld_vlr=dict(
            type='mmkd.LocalizationDistillationLoss',
            region='vlr',
            temperature=10,
            loss_weight=0.5,
        ),
        loss_kd=dict(
            type='mmkd.ClassificationDistillationLoss', temperature=2, loss_weight=1.3
        ),
    ),
)
