# GAN Compression on facades of 128x128, for tools/reproduce.py: what distillation, the
# teacher's largest channels and a search are worth, for generators of two sizes.
data = 'Facades'
title = 'pix2pix of 0.36 and 0.11 G multiply-adds <- 1.2 G, 128x128'
note = (
    'All generators have separable convolutions. Those of one width have 16 or 8 '
    'channels at full resolution, 64 or 32 in the trunk; the teacher has 32 and 128. '
    'Searched ones cost as much at most: they are the best ones, by proxy FID on the '
    'validation pictures, among 80 sub-networks of a supernet of 24 channels that '
    'learned from the teacher for 1200 iterations, and are trained for as long as the '
    'others then. Differences are from the generator alone of the same size. FID is '
    'of the features of MobileNetV2 and of 100 pictures: small is good, and no number '
    'of anybody else compares. All of it, the teacher most, is far from trained as '
    'GANs are: 2000 iterations of 4 pictures for the teacher, on a CPU. Milliseconds '
    'are of one picture on one busy core.'
)
task = 'gan'
teacher = 'configs/gan_compression/pix2pix_mobile-resnet_facades.py'
baseline = '0.36 G alone'
seeds = (0, 1, 2)
options = {'val_evaluator.0.metric': ['psnr', 'ssim', 'fid']}

_alone = 'configs/gan_compression/pix2pix_mobile-resnet_facades.py'
_taught = 'configs/gan_compression/gan-compression_pix2pix_resnet_facades.py'
_half = {'param_scheduler.begin': 300}
_student = {
    **_half,
    'model.teacher.config': 'mmkd::gan_compression/pix2pix_mobile-resnet_facades.py',
    'model.generator.type': 'mmkd.MobileResnetGenerator',
}
_inherited = {**_student, 'model.inherit': ['generator', 'discriminator']}
_16 = {'model.generator.ngf': 16}
_8 = {'model.generator.ngf': 8}
_search = dict(supernet='supernet, whole', metric='pictures/proxy_fid')
_small = dict(baseline='0.11 G alone')

rows = {
    '0.36 G alone': dict(config=_alone, options={**_half, **_16}),
    '0.36 G distilled': dict(config=_taught, options={**_student, **_16}),
    '0.36 G distilled, largest channels': dict(
        config=_taught, options={**_inherited, **_16}
    ),
    '0.36 G distilled, searched': dict(
        search=dict(**_search, macs=0.3552e9), options=_half
    ),
    '0.11 G alone': dict(config=_alone, options={**_half, **_8}, **_small),
    '0.11 G distilled': dict(config=_taught, options={**_student, **_8}, **_small),
    '0.11 G distilled, largest channels': dict(
        config=_taught, options={**_inherited, **_8}, **_small
    ),
    '0.11 G distilled, searched': dict(
        search=dict(**_search, macs=0.1116e9), options=_half, **_small
    ),
    'supernet, whole': dict(
        config=_taught,
        options={
            **_student,
            'model.generator.type': 'mmkd.SuperMobileResnetGenerator',
            'model.generator.ngf': 24,
            'param_scheduler.begin': 600,
            'search.population': 20,
            'search.generations': 3,
        },
        times=2,
        seeds=(0,),
    ),
}
stages = dict(main=dict(iterations=600))
