"""Small data sets and configs whose teachers are cached, in the tests' folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from tiny_models import tiny_gfl

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
    network.init_weights()
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
