# ATSS with a distribution per edge, the student.
_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(bbox_head=dict(type='mmkd.DistributionalATSSHead'))
