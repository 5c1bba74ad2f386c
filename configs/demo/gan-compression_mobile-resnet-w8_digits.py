_base_ = 'pix2pix_mobile-resnet-w8_digits.py'
model = dict(
    type='mmkd.GANCompression',
    # Its discriminator is where the student's begins.
    discriminator=None,
    teacher=dict(config='mmkd::demo/pix2pix_resnet-w24_digits.py', checkpoint=None),
)
