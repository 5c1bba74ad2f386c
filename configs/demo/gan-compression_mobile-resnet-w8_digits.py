_base_ = 'pix2pix_mobile-resnet-w8_digits.py'
model = dict(
    type='mmkd.GANCompression',
    # Its discriminator is where the student's begins, its largest channels are where
    # the student does.
    discriminator=None,
    inherit=['generator', 'discriminator'],
    teacher=dict(
        config='mmkd::demo/pix2pix_mobile-resnet-w24_digits.py', checkpoint=None
    ),
)
