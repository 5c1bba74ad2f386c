# Segmentation of the demo's digits, for tools/reproduce.py: structured distillation
# term by term with the demo's weights, and each other method by itself with those of
# configs/_methods_. The pair-wise term costs what the pixel-wise one alone gains: the
# sum runs with less of it, and with weights that were searched, too.
data = 'Digits'
title = 'Semantic FPN ResNet-18 of 8 channels <- 24'
task = 'segmentation'
teacher = 'configs/demo/fpn_r18-w24_digits.py'
baseline = 'student alone'
seeds = (0, 1, 2)

_skds = 'configs/demo/skds_fpn_r18-w8_fpn_r18-w24_digits.py'
_no_pixel = {'model.losses.loss_pixel': None}
_no_pair = {'model.losses.loss_pair': None}
_no_holistic = {'model.losses.loss_holistic': None}


def _alone(**loss):
    """Options that put one loss in the place of the demo's."""
    told = {f'model.losses.loss_one.{key}': value for key, value in loss.items()}
    return {**_no_pixel, **_no_pair, **_no_holistic, **told}


rows = {
    'student alone': dict(config='configs/demo/fpn_r18-w8_digits.py'),
    'pixel': dict(config=_skds, options={**_no_pair, **_no_holistic}),
    'pixel + pair': dict(config=_skds, options=_no_holistic),
    'pixel + pair + holistic, the demo': dict(config=_skds),
    'pixel + a tenth of pair': dict(
        config=_skds,
        options={**_no_holistic, 'model.losses.loss_pair.loss_weight': 1.0},
    ),
    # python tools/tune.py configs/demo/skds_fpn_r18-w8_fpn_r18-w24_digits.py \
    #     --trials 16 --length 150 --seeds 3
    'pixel + pair + holistic, searched': dict(
        config=_skds,
        options={
            'model.losses.loss_pixel.loss_weight': 0.1234,
            'model.losses.loss_pair.loss_weight': 1.545,
            'model.losses.loss_holistic.loss_weight': 0.03862,
        },
    ),
    'CWD on logits': dict(config='configs/demo/cwd_fpn_r18-w8_fpn_r18-w24_digits.py'),
    'PKD': dict(
        config=_skds, options=_alone(type='mmkd.PKDLoss', at='neck', loss_weight=24)
    ),
    'MGD': dict(
        config=_skds,
        options=_alone(
            type='mmkd.MGDLoss',
            at='backbone',
            levels=[(2, 2)],
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
}
stages = dict(main=dict(iterations=500))
