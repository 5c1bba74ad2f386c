_base_ = 'fpn_r18-w8_digits.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillSegmentor',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::demo/fpn_r18-w24_digits.py',
        checkpoint='work_dirs/fpn_r18-w24_digits/iter_500.pth',
    ),
    losses=dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=1.0, temperature=3.0),
        loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0),
        # Score maps of 12x12 ask for no wide critic.
        loss_holistic=dict(
            type='mmkd.HolisticLoss',
            loss_weight=0.1,
            gp_norm='rms',
            critic=dict(type='mmkd.SelfAttentionCritic', channels=16),
        ),
    ),
)
