# Two-stage detection on BCCD, for tools/reproduce.py: the ablation of Chen et al. 2017,
# and DKD and DIST on the box head with the weights of configs/_methods_.
data = 'BCCD'
title = 'Faster R-CNN MobileNetV2 0.25 <- 1.0'
teacher = 'configs/chen2017/faster-rcnn_mbv2_bccd.py'
baseline = 'student alone'
seeds = (0, 1, 2)
note = 'DKD and DIST were run on a machine that did much else: their times say nothing.'

_all = 'configs/chen2017/chen2017_faster-rcnn_mbv2-025_faster-rcnn_mbv2_bccd.py'
_no_classes = {'model.losses.loss_soft_rpn': None, 'model.losses.loss_soft_rcn': None}
_no_boxes = {'model.losses.loss_bound_rpn': None, 'model.losses.loss_bound_rcn': None}
_no_hint = {'model.losses.loss_hint': None}
_plain_ce = {
    'model.losses.loss_soft_rpn.background_weight': 1.0,
    'model.losses.loss_soft_rcn.background_weight': 1.0,
}
_to_teacher = {
    'model.losses.loss_bound_rpn.type': 'mmkd.BoxImitationLoss',
    'model.losses.loss_bound_rcn.type': 'mmkd.BoxImitationLoss',
}
_nothing = {**_no_classes, **_no_boxes, **_no_hint}
_dkd = {
    'model.losses.loss_dkd.type': 'mmkd.DKDLoss',
    'model.losses.loss_dkd.at': 'roi_head.bbox_head',
    'model.losses.loss_dkd.alpha': 1.0,
    'model.losses.loss_dkd.beta': 0.25,
    'model.losses.loss_dkd.temperature': 1.0,
}
_dist = {
    'model.losses.loss_dist.type': 'mmkd.DISTLoss',
    'model.losses.loss_dist.at': 'roi_head.bbox_head',
}
_not_adapted = {'model.losses.loss_hint.adapter.type': 'mmkd.Identity'}
rows = {
    'student alone': dict(config='configs/chen2017/faster-rcnn_mbv2-025_bccd.py'),
    'soft CE': dict(config=_all, options={**_no_boxes, **_no_hint, **_plain_ce}),
    'weighted soft CE': dict(config=_all, options={**_no_boxes, **_no_hint}),
    "L2 to the teacher's boxes": dict(
        config=_all, options={**_no_classes, **_no_hint, **_to_teacher}
    ),
    'bounded regression': dict(config=_all, options={**_no_classes, **_no_hint}),
    'hint without adaptation': dict(
        config=_all, options={**_no_classes, **_no_boxes, **_not_adapted}
    ),
    'hint': dict(config=_all, options={**_no_classes, **_no_boxes}),
    'all together': dict(config=_all),
    'DKD': dict(config=_all, options={**_nothing, **_dkd}),
    'DIST': dict(config=_all, options={**_nothing, **_dist}),
}
# First all rows on a short schedule, then the baseline and the best three others on a
# long one. The teacher has its own training at each size.
stages = dict(
    breadth=dict(epochs=6, scale=(256, 192)),
    long=dict(epochs=12, scale=(320, 240), best=3),
)
