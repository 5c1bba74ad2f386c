# Channel-wise divergence, `--method cwd`. Detection: all levels of the neck;
# segmentation: the score maps. Weights for a mean over levels.
mmdet = dict(
    loss_cwd=dict(
        type='mmkd.ChannelWiseDivergenceLoss', at='neck', temperature=1, loss_weight=10
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
