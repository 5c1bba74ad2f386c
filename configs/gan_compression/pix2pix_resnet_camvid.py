# The teacher, of half the width and for small pictures: 2.7 G multiply-adds.
_base_ = [
    '../_base_/pix2pix_resnet.py',
    '../_base_/camvid_pictures.py',
    '../_base_/schedule_gan_3000i_adam.py',
]
custom_imports = dict(imports='mmkd')
model = dict(generator=dict(ngf=32), discriminator=dict(ndf=64))
