_base_ = (
    'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'
)
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillSegmentor',
    student={{_base_.model}},
    teacher='mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    losses=dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=10.0),
        loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0),
        loss_holistic=dict(type='mmkd.HolisticLoss', loss_weight=0.1, gp_norm='rms'),
    ),
)
