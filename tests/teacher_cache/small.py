"""Small data sets and configs whose teachers are cached, in the tests' folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from tiny_models import narrow_r18, tiny_gfl, tiny_pspnet, zoo

from mmkd.config import add_default_hooks, distill_config

CLASSES = ('a', 'b', 'c')
#: Height and width: they give batches of images of several sizes.
SIZES = ((96, 128), (128, 96), (64, 160), (96, 96), (80, 112))
LD = dict(
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_vlr=dict(type='mmkd.LocalizationDistillationLoss', region='vlr'),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss'),
)


def write_coco(folder: Path, count: int = 10, seed: int = 0) -> Path:
    """Pictures of coloured boxes, as COCO describes them."""
    rng = np.random.default_rng(seed)
    (folder / 'images').mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for _ in range(3):
            w, h = (int(rng.integers(12, side - 8)) for side in (width, height))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=int(rng.integers(1, 4)),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
        name = f'{index:03d}.png'
        cv2.imwrite(str(folder / 'images' / name), picture)
        images.append(dict(id=index + 1, file_name=name, height=height, width=width))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    told = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'train.json').write_text(json.dumps(told))
    return folder


def pipeline(*extra: dict, scale=(96, 64), flip=0.5) -> list[dict]:
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        *extra,
        dict(type='Resize', scale=scale, keep_ratio=True),
        dict(type='RandomFlip', prob=flip),
        dict(type='PackDetInputs'),
    ]


def coco(folder: Path, steps: list | None = None) -> dict:
    return dict(
        type='CocoDataset',
        data_root=f'{folder}/',
        metainfo=dict(classes=CLASSES),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        pipeline=steps or pipeline(),
    )


def weights(model: Config, folder: Path, scope: str = 'mmdet') -> str:
    """A checkpoint of random weights, the same every time."""
    path = folder / 'teacher.pth'
    torch.manual_seed(3)
    with DefaultScope.overwrite_default_scope(scope):
        network = MODELS.build(copy.deepcopy(model))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if 'head' in name and value.dim() == 4:  # so that it has something to say
                value.mul_(6)
    torch.save(dict(state_dict=network.state_dict(), meta={}), path)
    return str(path)


def run_config(
    stock: Config,
    teacher: Config,
    dataset: dict,
    losses: dict,
    folder: Path,
    scope: str = 'mmdet',
) -> Config:
    """Two epochs on a CPU."""
    stock = copy.deepcopy(stock)
    stock.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dataset,
    )
    for name in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            stock[f'{name}_{part}'] = None
    stock.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    stock.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
    stock.param_scheduler = None
    stock.default_scope = scope
    stock.work_dir = str(folder / 'work')
    stock.log_level = 'ERROR'
    stock.randomness = dict(seed=5)
    named = dict(
        config=dict(model=teacher.model.to_dict(), default_scope=scope),
        checkpoint=weights(teacher.model, folder, scope),
    )
    return add_default_hooks(distill_config(stock, named, losses))


def gfl_run(folder: Path, **changes) -> Config:
    """GFL on the pictures below a folder, which are made if they are not there."""
    data = folder / 'data'
    if not data.exists():
        write_coco(data)
    options = dict(dataset=coco(data), losses=LD)
    options.update(changes)
    return run_config(tiny_gfl(), tiny_gfl(32), folder=folder, **options)


def detector_run(folder: Path, kind: str, **changes) -> Config:
    """A run of one of the heads whose targets follow from the labels alone."""
    if kind == 'gfl':
        return gfl_run(folder, **changes)
    if not (folder / 'data').exists():
        write_coco(folder / 'data')
    losses = LD
    if kind == 'fcos':
        losses = dict(loss_ld=LD['loss_ld'], loss_kd=LD['loss_kd'])
    options = dict(dataset=coco(folder / 'data'), losses=losses)
    options.update(changes)
    student, teacher = (_dense(kind, width) for width in (16, 32))
    return run_config(student, teacher, folder=folder, **options)


def _dense(kind: str, width: int) -> Config:
    name, head = dict(
        fcos=('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'FCOS'),
        retina=('retinanet/retinanet_r50_fpn_1x_coco.py', 'Retina'),
    )[kind]
    cfg = copy.deepcopy(zoo(f'mmdet::{name}'))
    cfg.model.backbone.update(narrow_r18())
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    cfg.model.bbox_head.update(
        type=f'mmkd.Distributional{head}Head',
        num_classes=3,
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=4),
    )
    return cfg


def pspnet_run(folder: Path, size=(64, 64), losses: dict | None = None) -> Config:
    """PSPNet on noise with label maps, of which a row is ignored."""
    data = folder / 'data'
    if not data.exists():
        rng = np.random.default_rng(0)
        for part in ('img', 'ann'):
            (data / part).mkdir(parents=True)
        for index in range(6):
            picture = rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)
            labels = rng.integers(0, 4, (72, 80), dtype=np.uint8)
            labels[:9] = 255
            cv2.imwrite(str(data / 'img' / f'{index}.jpg'), picture)
            cv2.imwrite(str(data / 'ann' / f'{index}.png'), labels)
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Resize', scale=size, keep_ratio=False),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(data),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=(*CLASSES, 'd'), palette=[[0, 0, 0]] * 4),
        pipeline=steps,
    )
    losses = losses or dict(loss_pixel=dict(type='mmkd.PixelWiseLoss'))
    return run_config(
        tiny_pspnet(), tiny_pspnet(24), dataset, losses, folder, scope='mmseg'
    )


def cached(cfg: Config, folder: Path) -> Config:
    """The same run with what is in a folder in place of its teacher."""
    cfg = copy.deepcopy(cfg)
    cfg.model.teacher = dict(cfg.model.teacher, cache=str(folder))
    return cfg


def model_of(cfg: Config) -> torch.nn.Module:
    """The distilled model of a run, its cache compared with the data."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for module in model.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    if 'cache' in cfg.model.teacher:
        model.distiller.teacher.check_run(cfg, data_of(cfg), model)
    return model


def data_of(cfg: Config):
    """The training data of a run."""
    init_default_scope(cfg.default_scope)
    return DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))


def batch_of(model: torch.nn.Module, samples: list) -> dict:
    """What the model gets of some samples."""
    return model.data_preprocessor(pseudo_collate(copy.deepcopy(samples)), True)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
