# Both: the paper's pixels and pairs of pixels by a teacher, without its critic, for the
# student's own pass, and wider networks around the student.
_base_ = 'netaug_fpn_mbv2-025_camvid.py'
model = dict(
    _delete_=True,
    type='mmkd.DistillSegmentor',
    student={{_base_.model}},
    teacher=dict(
        config='mmkd::skds/fpn_mbv2_camvid.py',
        checkpoint='work_dirs/fpn_mbv2_camvid/iter_3000.pth',
    ),
    losses=dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=10.0),
        loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=10.0),
    ),
)
