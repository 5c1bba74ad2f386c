# The teacher.
_base_ = [
    '../_base_/pix2pix_resnet.py',
    '../_base_/edges2shoes_pictures.py',
    '../_base_/schedule_gan_adam.py',
]
custom_imports = dict(imports='mmkd')
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = dict(begin=5)
