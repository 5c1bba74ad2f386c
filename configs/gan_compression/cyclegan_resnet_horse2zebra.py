# The teacher.
_base_ = ['../_base_/horse2zebra_pictures.py', '../_base_/schedule_gan_adam.py']
custom_imports = dict(imports='mmkd')
model = dict(
    type='mmkd.CycleGAN',
    generator=dict(type='mmkd.ResnetGenerator', ngf=64),
    discriminator=dict(type='mmkd.PatchDiscriminator', ndf=64),
    gan_mode='lsgan',
    lambda_cycle=10.0,
    lambda_identity=0.5,
    pool_size=50,
)
train_cfg = dict(max_epochs=200, val_interval=20)
param_scheduler = dict(begin=100)
