_base_ = '_base_/pix2pix_digits.py'
