_base_ = '_base_/pix2pix_digits.py'
model = dict(generator=dict(ngf=8))
