_base_ = 'mgd_retinanet_r50_retinanet_x101_2x_coco.py'
model = dict(init_from_teacher=['neck', 'bbox_head'])
