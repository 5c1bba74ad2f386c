# Structured knowledge distillation, `--method skds_cvpr19_code`: the terms of the
# authors' first code. It came without a training script: the weights are the paper's.
mmseg = dict(
    loss_pixel=dict(
        type='mmkd.PixelWiseLoss', loss_weight=10.0, normalize='cvpr19_code'
    ),
    loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0, kernel=1),
    loss_holistic=dict(
        type='mmkd.HolisticLoss',
        loss_weight=0.1,
        critic=dict(
            type='mmkd.SelfAttentionCritic', condition_on_image=True, norm=None
        ),
    ),
)
