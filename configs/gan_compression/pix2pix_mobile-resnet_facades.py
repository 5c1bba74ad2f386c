# A teacher with separable convolutions, of which a student can start with the largest
# channels: 1.2 G multiply-adds.
_base_ = 'pix2pix_resnet_facades.py'
model = dict(
    generator=dict(type='mmkd.MobileResnetGenerator'), discriminator=dict(ndf=32)
)
train_cfg = dict(max_iters=2000, val_interval=2000)
param_scheduler = dict(begin=1000)
