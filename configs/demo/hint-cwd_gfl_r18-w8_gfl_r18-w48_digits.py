_base_ = 'gfl_r18-w8_fpn_digits.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::demo/gfl_r18-w48_fpn_digits.py',
        checkpoint='work_dirs/demo/teacher-seed0/epoch_10.pth',
    ),
    # Fixed before the first distilled run, so that each term is about as large as
    # the detection loss of the student alone at its end (1.1): 1.3 and 1.1.
    losses=dict(
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=1.0),
        loss_cwd=dict(
            type='mmkd.ChannelWiseDivergenceLoss', at='neck', loss_weight=2.0
        ),
    ),
)
