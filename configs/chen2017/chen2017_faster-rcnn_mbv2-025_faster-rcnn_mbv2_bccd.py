_base_ = 'faster-rcnn_mbv2-025_bccd.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::chen2017/faster-rcnn_mbv2_bccd.py',
        checkpoint='work_dirs/faster-rcnn_mbv2_bccd/epoch_12.pth',
    ),
    losses=dict(
        loss_soft_rpn=dict(
            type='mmkd.WeightedSoftCrossEntropyLoss', at='rpn_head', mu=0.8
        ),
        loss_soft_rcn=dict(
            type='mmkd.WeightedSoftCrossEntropyLoss', at='roi_head.bbox_head', mu=0.8
        ),
        loss_bound_rpn=dict(type='mmkd.BoundedRegressionLoss', at='rpn_head'),
        loss_bound_rcn=dict(type='mmkd.BoundedRegressionLoss', at='roi_head.bbox_head'),
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.5),
    ),
)
