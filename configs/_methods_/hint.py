# Feature imitation, `--method hint`. The weight is our choice: the papers leave
# the normaliser open, ours is the mean over elements and levels.
mmdet = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=1.0)
)
mmseg = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='backbone', loss_weight=1.0)
)
