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
        loss_cwd=dict(
            type='mmkd.ChannelWiseDivergenceLoss',
            at='decode_head.conv_seg',
            temperature=4,
            loss_weight=3,
        )
    ),
)
