"""Localization distillation in one of two processes; started by ``test_terms_ddp.py``.

Also the small models and batches that the tests of LD on detectors use.
"""

from __future__ import annotations

import copy
import sys

import torch
from mmengine.structures import InstanceData
from term_ranks import run_rank
from tiny_models import build, tiny_gfl

from mmkd.det import DistillDetector

LD = 'mmkd.LocalizationDistillationLoss'
TERMS = dict(
    loss_ld=dict(type=LD),
    loss_vlr=dict(type=LD, region='vlr'),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss'),
)
GN = dict(type='GN', num_groups=4, requires_grad=True)


def gfl(width: int = 16, seed: int = 0, rough: bool = True, **model):
    """Stock GFL of the zoo's config, narrow, with GroupNorm throughout."""
    cfg = tiny_gfl(width, backbone=dict(norm_cfg=GN))
    cfg.merge_from_dict(dict(model=model))
    made = build(cfg.model, 'mmdet', seed)
    if rough:
        roughen(made, seed)
    return made


def roughen(model, seed: int, scale: float = 0.2) -> None:
    """Random head weights: distributions and scores that are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.bbox_head.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * scale)


def distilled(student, teacher, losses=TERMS, **options):
    """Copies of both, with the terms, every one with these options."""
    losses = {name: {**cfg, **options} for name, cfg in losses.items()}
    return DistillDetector(copy.deepcopy(student), copy.deepcopy(teacher), losses)


def batch(shapes=((96, 128), (128, 96)), seed: int = 0, without: tuple = ()) -> dict:
    """Raw images of several sizes, one to three random objects on each.

    Args:
        shapes: Height and width of every image in pixels.
        seed: Of images and objects.
        without: Images that have no objects.
    """
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index, (height, width) in enumerate(shapes):
        image = torch.randint(0, 256, (3, height, width), generator=generator)
        count = int(torch.randint(1, 4, (), generator=generator))
        places = torch.rand(count, 4, generator=generator)
        size = torch.tensor([width, height])
        corner = places[:, :2] * size * 0.6
        sides = 12 + places[:, 2:] * (size - corner - 12)
        labels = torch.randint(0, 3, (count,), generator=generator)
        kept = 0 if index in without else count
        boxes = torch.cat([corner, corner + sides], 1)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=(height, width),
                ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(bboxes=boxes[:kept], labels=labels[:kept])
        inputs.append(image.to(torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def models():
    """Student and teacher of the two processes, and of the one."""
    return distilled(gfl(seed=1), gfl(24, seed=2))


#: Terms that are zero without objects.
NEED_OBJECTS = set(TERMS)

#: Two images per rank, of one padded size, with 4 and 3 objects or with none.
BATCHES = dict(
    objects=[batch(seed=3), batch(((128, 128), (96, 128)), seed=5)],
    none_on_a_rank=[batch(seed=3), batch(((128, 128), (96, 128)), without=(0, 1))],
)


if __name__ == '__main__':
    run_rank(sys.modules[__name__])
