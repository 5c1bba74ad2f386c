# Maps, on the right of each file, and aerial photos of the same places on the left.
data_root = 'data/maps/'
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
_dataset = dict(type='mmkd.PairedPictures', data_root=data_root, source='right')
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**_dataset, folder='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_dataset, folder='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='mmkd.PictureMetrics', metric=['fid'])]
test_evaluator = val_evaluator
