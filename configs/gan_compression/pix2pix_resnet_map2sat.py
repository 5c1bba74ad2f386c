# The teacher.
_base_ = [
    '../_base_/pix2pix_resnet.py',
    '../_base_/map2sat_pictures.py',
    '../_base_/schedule_gan_adam.py',
]
custom_imports = dict(imports='mmkd')
model = dict(lambda_recon=10.0)
train_cfg = dict(max_epochs=300, val_interval=50)
param_scheduler = dict(begin=100)
default_hooks = dict(checkpoint=dict(interval=25))
