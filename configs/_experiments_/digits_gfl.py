# One-stage detection on the demo's digits, for tools/reproduce.py: each method by
# itself and the demo's own pair. Weights are those of configs/_methods_ where nothing
# else is said, and none was searched here. The student's head has one convolution.
data = 'Digits'
title = 'GFL ResNet-18 of 8 channels <- 48'
teacher = 'configs/demo/gfl_r18-w48_fpn_digits.py'
baseline = 'student alone'
seeds = (0, 1, 2)

_demo = 'configs/demo/hint-cwd_gfl_r18-w8_gfl_r18-w48_digits.py'


def _alone(*, second=None, **loss):
    """Options that put one loss, or two, in the place of the demo's."""
    options = {'model.losses.loss_hint': None, 'model.losses.loss_cwd': None}
    for name, terms in (('loss_one', loss), ('loss_two', second or {})):
        options.update({f'model.losses.{name}.{key}': terms[key] for key in terms})
    return options


_ld = dict(type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=0.5)
rows = {
    'student alone': dict(config='configs/demo/gfl_r18-w8_fpn_digits.py'),
    'hint (0.3)': dict(config=_demo, options={'model.losses.loss_cwd': None}),
    'CWD on class scores': dict(config=_demo, options={'model.losses.loss_hint': None}),
    'hint + CWD, the demo': dict(config=_demo),
    'main LD + VLR LD': dict(
        config=_demo, options=_alone(**_ld, second=dict(_ld, region='vlr'))
    ),
    'PKD': dict(
        config=_demo, options=_alone(type='mmkd.PKDLoss', at='neck', loss_weight=24)
    ),
    'MGD': dict(
        config=_demo,
        options=_alone(
            type='mmkd.MGDLoss', at='neck', mask_ratio=0.65, loss_weight=1e-4
        ),
    ),
    'FGD': dict(
        config=_demo, options=_alone(type='mmkd.FGDLoss', at='neck', loss_weight=5)
    ),
    'CrossKD': dict(
        config=_demo,
        options=_alone(type='mmkd.CrossKDLoss', at='bbox_head', index=1),
    ),
}
stages = dict(main=dict(epochs=10))
