_base_ = 'fgd_gfl_r50_gfl_r101_1x_coco.py'
model = dict(init_from_teacher=['neck', 'bbox_head'])
