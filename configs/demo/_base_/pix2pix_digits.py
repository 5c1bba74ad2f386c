"""Edges of the digits' pictures, of which the pictures are to be made again."""

default_scope = 'mmengine'
custom_imports = dict(imports='mmkd')
data_root = 'data/digits/'
pipeline = [
    dict(type='mmkd.LoadPictures'),
    dict(type='mmkd.DrawEdges'),
    dict(type='mmkd.PackPictures'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmkd.PairedPictures',
        data_root=data_root,
        source_folder='train',
        target_folder='train',
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmkd.PairedPictures',
        data_root=data_root,
        source_folder='val',
        target_folder='val',
        indices=64,  # of 200: SSIM takes long on a CPU
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmkd.PictureMetrics', metric=('ssim', 'psnr'))
test_evaluator = val_evaluator

model = dict(
    type='mmkd.Pix2Pix',
    generator=dict(
        type='mmkd.MobileResnetGenerator', in_channels=1, ngf=24, num_blocks=6
    ),
    discriminator=dict(
        type='mmkd.PatchDiscriminator', in_channels=4, ndf=32, num_layers=2
    ),
)

max_iters = 400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
_adam = dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.5, 0.999)))
optim_wrapper = dict(
    constructor='mmkd.GANOptimWrapperConstructor',
    generator=_adam,
    discriminator=_adam,
)
# Constant, and then linearly to 0, of both.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.0,
        begin=max_iters // 2,
        end=max_iters,
        by_epoch=False,
    )
]
log_processor = dict(by_epoch=False)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=max_iters, max_keep_ckpts=1
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
