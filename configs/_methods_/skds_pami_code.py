# Structured knowledge distillation, `--method skds_pami_code`: what the authors' later
# code computes. It multiplies the critic's loss by 0.1, which for SGD is a tenth of
# the rate 4e-4 and ten times the weight decay 1e-4.
mmseg = dict(
    loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=10.0, normalize='pami_code'),
    loss_pair=dict(
        type='mmkd.PairWiseLoss',
        loss_weight=0.5,
        pool='max',
        kernel=0.5,
        detach_norms=True,
    ),
    loss_holistic=dict(
        type='mmkd.HolisticLoss',
        loss_weight=0.1,
        critic_lr=4e-5,
        critic_optimizer=dict(type='SGD', momentum=0.9, weight_decay=1e-3),
    ),
)
