# Facades: 400 training and 100 validation pairs, a photo on the left of each file and
# its label map on the right. For a CPU, small, and judged by a proxy of FID, which has
# MobileNetV2's features.
data_root = 'data/facades/'
size = (128, 128)  # height and width of pictures; files have 256x256

train_pipeline = [
    dict(type='mmkd.LoadPictures'),
    dict(
        type='mmkd.ChangePictures',
        steps=[
            dict(type='Resize', size=(143, 143)),
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
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**_dataset, folder='pairs/train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **_dataset, folder='pairs/val', test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='mmkd.PictureMetrics',
        metric=['psnr', 'fid'],
        features=dict(
            model=dict(
                type='mmdet.MobileNetV2',
                out_indices=(4,),
                init_cfg=dict(
                    type='Pretrained',
                    checkpoint='data/weights/mobilenet_v2_imagenet_mmdet.pth',
                ),
            ),
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
        ),
    ),
]
test_evaluator = val_evaluator
custom_hooks = [dict(type='mmkd.GeneratorCostHook', size=size)]
