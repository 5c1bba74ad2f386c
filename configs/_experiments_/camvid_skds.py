# Structured distillation on CamVid, term by term as in the paper, and channel-wise
# divergence on the score maps, for tools/reproduce.py.
data = 'CamVid'
title = 'Structured distillation, Semantic FPN MobileNetV2 0.25 <- 1.0'
task = 'segmentation'
teacher = 'configs/skds/fpn_mbv2_camvid.py'
baseline = 'student alone'
seeds = (0, 1, 2)

_skds = 'configs/skds/skds_fpn_mbv2-025_fpn_mbv2_camvid.py'
_no_pixel = {'model.losses.loss_pixel': None}
_no_pair = {'model.losses.loss_pair': None}
_no_holistic = {'model.losses.loss_holistic': None}
_cwd = {
    'model.losses.loss_cwd.type': 'mmkd.ChannelWiseDivergenceLoss',
    'model.losses.loss_cwd.at': 'decode_head.conv_seg',
    'model.losses.loss_cwd.temperature': 4.0,
    'model.losses.loss_cwd.loss_weight': 3.0,
}
rows = {
    'student alone': dict(config='configs/skds/fpn_mbv2-025_camvid.py'),
    'pixel': dict(config=_skds, options={**_no_pair, **_no_holistic}),
    'pixel + pair': dict(config=_skds, options=_no_holistic),
    'pixel + pair + holistic': dict(config=_skds),
    'CWD on logits': dict(
        config=_skds, options={**_no_pixel, **_no_pair, **_no_holistic, **_cwd}
    ),
}
stages = dict(main=dict(iterations=1000))
