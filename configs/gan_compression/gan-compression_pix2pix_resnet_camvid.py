# A once-for-all student.
_base_ = 'pix2pix_resnet_camvid.py'
model = dict(
    _delete_=True,
    type='mmkd.GANCompression',
    generator=dict(type='mmkd.SuperMobileResnetGenerator', ngf=32),
    teacher=dict(
        config='mmkd::gan_compression/pix2pix_resnet_camvid.py',
        checkpoint='work_dirs/pix2pix_resnet_camvid/iter_3000.pth',
    ),
    gan_mode='hinge',
    lambda_recon=100.0,
    lambda_distill=1.0,
)
train_cfg = dict(max_iters=4000)
param_scheduler = dict(begin=2000)
search = dict(
    macs=0.26e9,
    metric='pictures/mIoU',
    population=40,
    generations=10,
    parents=0.25,
    mutation=0.5,
    mutate_prob=0.3,
)
# Of the sub-network that is found, on top of this config.
finetune = {'train_cfg.max_iters': 2000, 'param_scheduler.begin': 1000}
