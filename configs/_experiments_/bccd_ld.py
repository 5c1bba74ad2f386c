# One-stage detection on BCCD, for tools/reproduce.py: localization distillation with
# every term added in turn, and each method of features and heads by itself.
data = 'BCCD'
title = 'GFL MobileNetV2 0.25 <- 1.0'
teacher = 'configs/hint/gfl_mbv2_bccd.py'
baseline = 'student alone'
seeds = (0, 1, 2)

_ld = 'configs/ld/ld_gfl_mbv2-025_gfl_mbv2_bccd.py'
_no_vlr = {'model.losses.loss_ld_vlr': None}
_no_kd = {'model.losses.loss_kd': None}
_hint = {
    'model.losses.loss_hint.type': 'mmkd.FeatureImitationLoss',
    'model.losses.loss_hint.at': 'neck',
    'model.losses.loss_hint.loss_weight': 1.0,
}
_method = 'configs/hint/hint_gfl_mbv2-025_gfl_mbv2_bccd.py'


def _alone(**loss):
    """Options that put one loss in the place of the hint."""
    told = {f'model.losses.loss_one.{key}': value for key, value in loss.items()}
    return {'model.losses.loss_hint': None, **told}


_cwd = dict(type='mmkd.ChannelWiseDivergenceLoss', at='neck', temperature=1)
_pkd = dict(type='mmkd.PKDLoss', at='neck')
_fgd = dict(type='mmkd.FGDLoss', at='neck')
_crosskd = dict(type='mmkd.CrossKDLoss', at='bbox_head', index=1)

# Weights are those of configs/_methods_, none was searched. Three of them drown the
# task of a student this small, so those run with a tenth of it, too. The heads here
# have two convolutions, so that CrossKD takes the features behind the first.
rows = {
    'student alone': dict(config='configs/hint/gfl_mbv2-025_bccd.py'),
    'main LD': dict(config=_ld, options={**_no_vlr, **_no_kd}),
    'main LD + VLR LD': dict(config=_ld, options=_no_kd),
    'main LD + VLR LD + main KD': dict(config=_ld),
    'main LD + VLR LD + main KD + hint': dict(config=_ld, options=_hint),
    "MMDetection's LDHead": dict(
        config='configs/ld/ldhead_gfl_mbv2-025_gfl_mbv2_bccd.py'
    ),
    # What the sum is worth without the term that costs.
    'main LD + VLR LD + hint': dict(
        config=_ld, options={**_hint, **_no_kd}, stage='long'
    ),
    'hint': dict(config=_method),
    'CWD': dict(config=_method, options=_alone(**_cwd, loss_weight=50)),
    'CWD, a tenth': dict(config=_method, options=_alone(**_cwd, loss_weight=5)),
    'PKD': dict(config=_method, options=_alone(**_pkd, loss_weight=24)),
    'PKD, a tenth': dict(config=_method, options=_alone(**_pkd, loss_weight=2.4)),
    'MGD': dict(
        config=_method,
        options=_alone(
            type='mmkd.MGDLoss', at='neck', mask_ratio=0.65, loss_weight=1e-4
        ),
    ),
    'FGD': dict(config=_method, options=_alone(**_fgd, loss_weight=5)),
    'FGD, a tenth': dict(config=_method, options=_alone(**_fgd, loss_weight=0.5)),
    'CrossKD': dict(config=_method, options=_alone(**_crosskd)),
    # Wider networks around the student, and as many steps without them as take the
    # same time: 3.0 and 1.8 times as many.
    'NetAug': dict(config='configs/netaug/netaug_gfl_mbv2-025_bccd.py', stage='long'),
    'CrossKD + NetAug': dict(
        config='configs/netaug/hint-netaug_gfl_mbv2-025_gfl_mbv2_bccd.py',
        options=_alone(**_crosskd),
        stage='long',
    ),
    'student alone, as long as NetAug takes': dict(
        config='configs/hint/gfl_mbv2-025_bccd.py', stage='long', times=3
    ),
    'CrossKD, as long as both take': dict(
        config=_method, options=_alone(**_crosskd), stage='long', times=1.8
    ),
}
# First all rows on a short schedule, then the baseline and the best three others on a
# long one. The teacher has its own training at each size.
stages = dict(
    breadth=dict(epochs=6, scale=(256, 192)),
    long=dict(epochs=12, scale=(320, 240), best=3, always=["MMDetection's LDHead"]),
)
