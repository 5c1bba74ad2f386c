# Localization distillation on BCCD, every term added in turn, for tools/reproduce.py.
data = 'BCCD'
title = 'Localization distillation, GFL MobileNetV2 0.25 <- 1.0'
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
rows = {
    'student alone': dict(config='configs/hint/gfl_mbv2-025_bccd.py'),
    'main LD': dict(config=_ld, options={**_no_vlr, **_no_kd}),
    'main LD + VLR LD': dict(config=_ld, options=_no_kd),
    'main LD + VLR LD + main KD': dict(config=_ld),
    'main LD + VLR LD + main KD + hint': dict(config=_ld, options=_hint),
    "MMDetection's LDHead": dict(
        config='configs/ld/ldhead_gfl_mbv2-025_gfl_mbv2_bccd.py'
    ),
}
# First all rows on a short schedule, then the baseline and the best three others on a
# long one. The teacher has its own training at each size.
stages = dict(
    breadth=dict(epochs=6, scale=(256, 192)),
    long=dict(epochs=12, scale=(320, 240), best=3, always=["MMDetection's LDHead"]),
)
