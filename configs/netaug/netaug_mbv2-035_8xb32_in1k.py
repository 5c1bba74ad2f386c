# The paper's own experiment: also the channels between blocks, and sorted channels.
_base_ = 'mbv2-035_8xb32_in1k.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.NetAug',
    model={{_base_.model}},
    width=(1, 1.8, 2.6),
)
custom_hooks = [dict(type='mmkd.SortChannelsHook')]
