# A once-for-all student, without pairs: it learns what the teacher makes.
_base_ = 'cyclegan_resnet_horse2zebra.py'
model = dict(
    _delete_=True,
    type='mmkd.GANCompression',
    generator=dict(
        type='mmkd.SuperMobileResnetGenerator',
        choices=[[64, 48, 32, 24, 16]] * 8,
    ),
    teacher=dict(
        config='mmkd::gan_compression/cyclegan_resnet_horse2zebra.py',
        checkpoint='work_dirs/cyclegan_resnet_horse2zebra/epoch_200.pth',
    ),
    paired=False,
    gan_mode='lsgan',
    lambda_recon=10.0,
    lambda_distill=0.01,
)
train_cfg = dict(max_epochs=400)
param_scheduler = dict(begin=200)
search = dict(
    macs=2.7e9,
    metric='pictures/fid',
    population=100,
    generations=500,
    parents=0.25,
    mutation=0.5,
    mutate_prob=0.4,
)
# What is found is final: the authors saw the FID of fine-tuned ones rise.
finetune = None
