# CamVid from label maps, painted in the colours of the classes, for a CPU. The teacher
# of ../skds is asked what it sees in the pictures.
_base_ = 'camvid_segmentation.py'
size = (96, 128)  # height and width of pictures; files have 360x480

train_pipeline = [
    dict(
        type='mmkd.ChangePictures',
        steps=[
            dict(type='Resize', size=(108, 144)),
            dict(type='RandomCrop', size=size),
            dict(type='RandomHorizontalFlip'),
        ],
    ),
    dict(type='mmkd.PaintLabels'),
    dict(type='mmkd.PackPictures'),
]
test_pipeline = [
    dict(type='mmkd.ChangePictures', steps=[dict(type='Resize', size=size)]),
    dict(type='mmkd.PaintLabels'),
    dict(type='mmkd.PackPictures'),
]
_dataset = dict(
    type={{_base_.dataset_type}},
    data_root={{_base_.data_root}},
    metainfo={{_base_.metainfo}},
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='mmkd.LabelsToPhotos',
        dataset=dict(
            **_dataset,
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=10,
    dataset=dict(
        _delete_=True,
        type='mmkd.LabelsToPhotos',
        dataset=dict(
            **_dataset,
            data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        ),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmkd.PictureMetrics', metric=['psnr']),
    dict(
        type='mmkd.GeneratedSegmentation',
        segmentor=dict(
            config='mmkd::skds/fpn_mbv2_camvid.py',
            checkpoint='work_dirs/fpn_mbv2_camvid/iter_3000.pth',
        ),
        size={{_base_.crop_size}},
    ),
]
test_evaluator = val_evaluator
