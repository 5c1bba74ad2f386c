_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_methods_/chen2017.py']
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{_base_.model}},
    teacher='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py',
    losses={{_base_.mmdet}},
)
