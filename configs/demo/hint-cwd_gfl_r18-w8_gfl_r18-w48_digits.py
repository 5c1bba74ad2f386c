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
    # How the places and the weights were chosen: README.md.
    losses=dict(
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.3),
        loss_cwd=dict(
            type='mmkd.ChannelWiseDivergenceLoss',
            at='bbox_head.gfl_cls',
            loss_weight=5.0,
        ),
    ),
)
