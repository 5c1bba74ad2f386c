# DKD, `--method dkd`: the true class and the others, decoupled. Detection: the box head
# of a two-stage detector, with the authors' weights there.
mmdet = dict(
    loss_dkd=dict(
        type='mmkd.DKDLoss',
        at='roi_head.bbox_head',
        alpha=1.0,
        beta=0.25,
        temperature=1.0,
    )
)
# Segmentation is not in the paper: its weights for images, at temperature 1.
mmseg = dict(
    loss_dkd=dict(
        type='mmkd.DKDLoss', at='decode_head', alpha=1.0, beta=8.0, temperature=1.0
    )
)
