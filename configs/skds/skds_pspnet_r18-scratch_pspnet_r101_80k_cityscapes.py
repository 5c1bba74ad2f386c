_base_ = 'skds_pspnet_r18_pspnet_r101_80k_cityscapes.py'
model = dict(student=dict(pretrained=None))
