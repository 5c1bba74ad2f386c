# Structured distillation on CamVid, term by term as in the paper, and each other method
# by itself with the weights of configs/_methods_, for tools/reproduce.py.
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


def _alone(**loss):
    """Options that put one loss in the place of the paper's."""
    told = {f'model.losses.loss_one.{key}': value for key, value in loss.items()}
    return {**_no_pixel, **_no_pair, **_no_holistic, **told}


rows = {
    'student alone': dict(config='configs/skds/fpn_mbv2-025_camvid.py'),
    'pixel': dict(config=_skds, options={**_no_pair, **_no_holistic}),
    'pixel + pair': dict(config=_skds, options=_no_holistic),
    'pixel + pair + holistic': dict(config=_skds),
    'pixel + pair + a tenth of holistic': dict(
        config=_skds, options={'model.losses.loss_holistic.loss_weight': 0.01}
    ),
    'CWD on logits': dict(
        config=_skds,
        options=_alone(
            type='mmkd.ChannelWiseDivergenceLoss',
            at='decode_head.conv_seg',
            temperature=4.0,
            loss_weight=3.0,
        ),
    ),
    'PKD': dict(
        config=_skds, options=_alone(type='mmkd.PKDLoss', at='neck', loss_weight=24)
    ),
    'MGD': dict(
        config=_skds,
        options=_alone(
            type='mmkd.MGDLoss',
            at='backbone',
            levels=[(3, 3)],
            mask_ratio=0.75,
            loss_weight=2e-5,
        ),
    ),
    'DKD': dict(
        config=_skds,
        options=_alone(
            type='mmkd.DKDLoss', at='decode_head', alpha=1.0, beta=8.0, temperature=1.0
        ),
    ),
    'DIST': dict(config=_skds, options=_alone(type='mmkd.DISTLoss', at='decode_head')),
    # Wider networks around the student, and as many steps without them as take the
    # same time: 2.5 and 1.9 times as many.
    'NetAug': dict(config='configs/netaug/netaug_fpn_mbv2-025_camvid.py'),
    'pixel + pair + NetAug': dict(
        config='configs/netaug/skds-netaug_fpn_mbv2-025_fpn_mbv2_camvid.py'
    ),
    'student alone, as long as NetAug takes': dict(
        config='configs/skds/fpn_mbv2-025_camvid.py', times=2.5
    ),
    'pixel + pair, as long as both take': dict(
        config=_skds, options=_no_holistic, times=1.9
    ),
}
stages = dict(main=dict(iterations=1000))
