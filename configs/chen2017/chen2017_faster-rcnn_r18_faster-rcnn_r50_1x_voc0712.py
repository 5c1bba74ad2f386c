_base_ = ['faster-rcnn_r18_fpn_1x_voc0712.py', '../_methods_/chen2017.py']
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    # Its weights are not in the zoo: train it first.
    teacher=dict(
        config='mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
        checkpoint='work_dirs/faster-rcnn_r50_fpn_1x_voc0712/epoch_4.pth',
    ),
    losses={{_base_.mmdet}},
)
