# ATSS with a distribution per edge, the teacher.
_base_ = 'mmdet::atss/atss_r101_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(bbox_head=dict(type='mmkd.DistributionalATSSHead'))
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[16, 22],
        gamma=0.1,
    ),
]
