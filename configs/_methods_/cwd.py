# Channel-wise divergence, `--method cwd`. Detection: all levels of the neck;
# segmentation: the score maps. The usual weight of a level is 10; ours is of the mean
# over levels, five in stock necks.
mmdet = dict(
    loss_cwd=dict(
        type='mmkd.ChannelWiseDivergenceLoss', at='neck', temperature=1, loss_weight=50
    )
)
mmseg = dict(
    loss_cwd=dict(
        type='mmkd.ChannelWiseDivergenceLoss',
        at='decode_head.conv_seg',
        temperature=4,
        loss_weight=3,
    )
)
