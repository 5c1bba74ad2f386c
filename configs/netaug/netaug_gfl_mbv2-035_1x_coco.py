_base_ = 'gfl_mbv2-035_fpn_1x_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(_delete_=True, type='mmkd.NetAug', model={{_base_.model}})
