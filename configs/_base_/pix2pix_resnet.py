# The large pix2pix of GAN Compression: 11.4 million weights of the generator.
model = dict(
    type='mmkd.Pix2Pix',
    generator=dict(type='mmkd.ResnetGenerator', ngf=64),
    discriminator=dict(type='mmkd.PatchDiscriminator', in_channels=6, ndf=128),
    gan_mode='hinge',
    lambda_recon=100.0,
)
