# The student of the BCCD pair: a quarter of the backbone's width, from scratch. Its
# neck is as wide as the teacher's: the paper adapts hints also where widths agree.
_base_ = 'faster-rcnn_mbv2_bccd.py'
model = dict(
    backbone=dict(widen_factor=0.25, init_cfg=None),
    neck=dict(in_channels=[8, 24, 80]),
    roi_head=dict(bbox_head=dict(fc_out_channels=64)),
)
