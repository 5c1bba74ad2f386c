# DIST, `--method dist`: correlations between and within classes. Detection: the box
# head of a two-stage detector; segmentation: the score map.
mmdet = dict(
    loss_dist=dict(type='mmkd.DISTLoss', at='roi_head.bbox_head', loss_weight=1.0)
)
mmseg = dict(loss_dist=dict(type='mmkd.DISTLoss', at='decode_head', loss_weight=1.0))
