_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
custom_imports = dict(imports='mmkd')
model = dict(_delete_=True, type='mmkd.NetAug', model={{_base_.model}})
