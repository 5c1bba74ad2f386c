# The same by iterations, for small data.
_base_ = 'schedule_gan_adam.py'
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=3000, val_interval=1000
)
param_scheduler = dict(
    _delete_=True,
    type='LinearLR',
    start_factor=1.0,
    end_factor=0.0,
    begin=1500,
    by_epoch=False,
)
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=1000),
)
log_processor = dict(by_epoch=False)
