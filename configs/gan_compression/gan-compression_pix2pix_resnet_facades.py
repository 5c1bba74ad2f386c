# A once-for-all student.
_base_ = 'pix2pix_resnet_facades.py'
model = dict(
    _delete_=True,
    type='mmkd.GANCompression',
    generator=dict(type='mmkd.SuperMobileResnetGenerator', ngf=32),
    teacher=dict(
        config='mmkd::gan_compression/pix2pix_resnet_facades.py',
        checkpoint='work_dirs/pix2pix_resnet_facades/iter_3000.pth',
    ),
    gan_mode='hinge',
    lambda_recon=100.0,
    lambda_distill=1.0,
)
train_cfg = dict(max_iters=4000)
param_scheduler = dict(begin=2000)
search = dict(
    macs=0.35e9,
    metric='pictures/proxy_fid',
    population=40,
    generations=10,
    parents=0.25,
    mutation=0.5,
    mutate_prob=0.2,
)
# Of the sub-network that is found, on top of this config.
finetune = {'train_cfg.max_iters': 2000, 'param_scheduler.begin': 1000}
