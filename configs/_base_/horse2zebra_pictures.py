# Horses and zebras, without pairs.
data_root = 'data/horse2zebra/'
size = (256, 256)  # height and width of pictures

train_pipeline = [
    dict(type='mmkd.LoadPictures'),
    dict(
        type='mmkd.ChangePictures',
        steps=[
            dict(type='Resize', size=(286, 286)),
            dict(type='RandomCrop', size=size),
            dict(type='RandomHorizontalFlip'),
        ],
    ),
    dict(type='mmkd.PackPictures'),
]
test_pipeline = [
    dict(type='mmkd.LoadPictures'),
    dict(type='mmkd.ChangePictures', steps=[dict(type='Resize', size=size)]),
    dict(type='mmkd.PackPictures'),
]
_dataset = dict(type='mmkd.UnpairedPictures', data_root=data_root)
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **_dataset,
        source_folder='trainA',
        target_folder='trainB',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **_dataset,
        source_folder='testA',
        target_folder='testB',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='mmkd.PictureMetrics', metric=['fid'])]
test_evaluator = val_evaluator
