_base_ = 'fpn_mbv2-025_camvid.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillSegmentor',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::skds/fpn_mbv2_camvid.py',
        checkpoint='work_dirs/fpn_mbv2_camvid/iter_3000.pth',
    ),
    losses=dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=10.0),
        loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0),
        # Half as wide as the paper's: the score maps have 48x36 cells.
        loss_holistic=dict(
            type='mmkd.HolisticLoss',
            loss_weight=0.1,
            gp_norm='rms',
            critic=dict(type='mmkd.SelfAttentionCritic', channels=32),
        ),
    ),
)
