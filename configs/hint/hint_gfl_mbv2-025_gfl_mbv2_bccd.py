_base_ = 'gfl_mbv2-025_bccd.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::hint/gfl_mbv2_bccd.py',
        checkpoint='work_dirs/gfl_mbv2_bccd/epoch_12.pth',
    ),
    losses=dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck')),
)
