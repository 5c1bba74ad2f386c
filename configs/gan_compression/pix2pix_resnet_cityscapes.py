# The teacher.
_base_ = [
    '../_base_/pix2pix_resnet.py',
    '../_base_/cityscapes_pictures.py',
    '../_base_/schedule_gan_adam.py',
]
custom_imports = dict(imports='mmkd')
train_cfg = dict(max_epochs=250, val_interval=50)
param_scheduler = dict(begin=100)
default_hooks = dict(checkpoint=dict(interval=25))
