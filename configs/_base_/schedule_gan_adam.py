# GANs by epochs: Adam at a constant rate, and a linear decay to zero from `begin` on,
# up to the end of the training, of both optimizers.
default_scope = 'mmengine'
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
_adam = dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999)))
optim_wrapper = dict(
    constructor='mmkd.GANOptimWrapperConstructor',
    generator=_adam,
    discriminator=_adam,
)
param_scheduler = dict(
    type='LinearLR',
    start_factor=1.0,
    end_factor=0.0,
    begin=100,
    convert_to_iter_based=True,
)
# Children are wrapped one by one: a generator and its judges step in turn.
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=5, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
