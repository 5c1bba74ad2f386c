# Localization distillation, `--method ld`: main KD + main LD + VLR LD, for heads with
# a distribution per edge. The published weights, converted to our normalisation: see
# configs/ld/README.md.
mmdet = dict(
    loss_ld=dict(
        type='mmkd.LocalizationDistillationLoss', temperature=10, loss_weight=15
    ),
    loss_ld_vlr=dict(
        type='mmkd.LocalizationDistillationLoss',
        region='vlr',
        temperature=10,
        loss_weight=30,
    ),
    loss_kd=dict(
        type='mmkd.ClassificationDistillationLoss', temperature=2, loss_weight=35
    ),
)
