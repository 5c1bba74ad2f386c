# Both: a teacher for the student's own pass, and wider networks around the student.
_base_ = 'netaug_gfl_mbv2-025_bccd.py'
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
