_base_ = '../skds/fpn_mbv2-025_camvid.py'
custom_imports = dict(imports='mmkd')
model = dict(_delete_=True, type='mmkd.NetAug', model={{_base_.model}})
