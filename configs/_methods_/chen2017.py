# Chen et al. 2017, `--method chen2017`, for two-stage detectors: both heads' classes
# and boxes, and the hint. The paper gives nu = gamma = 0.5 and no mu; configs/chen2017
# says why it is 0.8.
mmdet = dict(
    loss_soft_rpn=dict(type='mmkd.WeightedSoftCrossEntropyLoss', at='rpn_head', mu=0.8),
    loss_soft_rcn=dict(
        type='mmkd.WeightedSoftCrossEntropyLoss', at='roi_head.bbox_head', mu=0.8
    ),
    loss_bound_rpn=dict(
        type='mmkd.BoundedRegressionLoss', at='rpn_head', loss_weight=0.5
    ),
    loss_bound_rcn=dict(
        type='mmkd.BoundedRegressionLoss', at='roi_head.bbox_head', loss_weight=0.5
    ),
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.5),
)
