# One stage: the same two losses on the dense head. It has no sampler: the soft term
# adds up all anchors and classes and is divided by the positives, as the focal loss is.
# Its weight makes it about the size of the hard one.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    losses=dict(
        loss_soft=dict(
            type='mmkd.WeightedSoftCrossEntropyLoss', at='bbox_head', loss_weight=1e-4
        ),
        loss_bound=dict(type='mmkd.BoundedRegressionLoss', at='bbox_head'),
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.5),
    ),
)
