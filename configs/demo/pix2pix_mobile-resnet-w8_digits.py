_base_ = '_base_/pix2pix_digits.py'
model = dict(generator=dict(type='mmkd.MobileResnetGenerator', ngf=8))
