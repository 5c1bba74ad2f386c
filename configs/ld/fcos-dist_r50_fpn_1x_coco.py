# FCOS with a distribution per edge, the student.
_base_ = (
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'
)
custom_imports = dict(imports='mmkd')
model = dict(bbox_head=dict(type='mmkd.DistributionalFCOSHead'))
