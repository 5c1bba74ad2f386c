_base_ = '../hint/gfl_mbv2-025_bccd.py'
custom_imports = dict(imports='mmkd')
model = dict(_delete_=True, type='mmkd.NetAug', model={{_base_.model}})
