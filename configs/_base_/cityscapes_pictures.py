# Cityscapes from label maps, painted in the colours of the 19 classes: 2975 training
# and 500 validation pictures, as squares.
data_root = 'data/cityscapes/'
size = (256, 256)  # height and width of pictures

train_pipeline = [
    dict(
        type='mmkd.ChangePictures',
        steps=[
            dict(type='Resize', size=(286, 286)),
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
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmkd.LabelsToPhotos',
        dataset=dict(
            type='CityscapesDataset',
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmkd.LabelsToPhotos',
        dataset=dict(
            type='CityscapesDataset',
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        ),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmkd.PictureMetrics', metric=['fid']),
    dict(
        type='mmkd.GeneratedSegmentation',
        segmentor='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        size=(512, 1024),
    ),
]
test_evaluator = val_evaluator
