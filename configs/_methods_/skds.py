# Structured knowledge distillation, `--method skds`: the paper's weights on means that
# do not depend on the number of images, pixels and classes.
mmseg = dict(
    loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=10.0),
    loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0),
    loss_holistic=dict(type='mmkd.HolisticLoss', loss_weight=0.1, gp_norm='rms'),
)
