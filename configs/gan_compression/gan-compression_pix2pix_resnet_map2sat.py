# A once-for-all student.
_base_ = 'pix2pix_resnet_map2sat.py'
model = dict(
    _delete_=True,
    type='mmkd.GANCompression',
    generator=dict(
        type='mmkd.SuperMobileResnetGenerator',
        choices=[[64, 56, 48, 32, 24, 16]] * 8,
    ),
    teacher=dict(
        config='mmkd::gan_compression/pix2pix_resnet_map2sat.py',
        checkpoint='work_dirs/pix2pix_resnet_map2sat/epoch_300.pth',
    ),
    gan_mode='hinge',
    lambda_recon=10.0,
    lambda_distill=0.01,
)
train_cfg = dict(max_epochs=600)
param_scheduler = dict(begin=200)
search = dict(
    macs=4.6e9,
    metric='pictures/fid',
    population=100,
    generations=500,
    parents=0.25,
    mutation=0.5,
    mutate_prob=0.3,
)
# Of the sub-network that is found, on top of this config.
finetune = {'train_cfg.max_epochs': 300, 'param_scheduler.begin': 100}
