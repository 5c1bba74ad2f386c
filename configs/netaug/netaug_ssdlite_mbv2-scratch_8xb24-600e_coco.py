_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(_delete_=True, type='mmkd.NetAug', model={{_base_.model}})
