# Localization distillation, `--method ld`: main KD + main LD + VLR LD, for heads with
# a distribution per edge. Weights that were measured, on BCCD; the published ones are
# far larger: configs/ld/README.md has both.
mmdet = dict(
    loss_ld=dict(
        type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=0.5
    ),
    loss_ld_vlr=dict(
        type='mmkd.LocalizationDistillationLoss',
        region='vlr',
        temperature=10,
        loss_weight=0.5,
    ),
    loss_kd=dict(
        type='mmkd.ClassificationDistillationLoss', temperature=2, loss_weight=1.3
    ),
)
