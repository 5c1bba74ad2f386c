_base_ = ['faster-rcnn_mbv2-025_bccd.py', '../_methods_/chen2017.py']
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::chen2017/faster-rcnn_mbv2_bccd.py',
        checkpoint='work_dirs/faster-rcnn_mbv2_bccd/epoch_12.pth',
    ),
    losses={{_base_.mmdet}},
)
