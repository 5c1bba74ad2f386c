"""Localization distillation in one of two processes; started by ``test_ld_ddp.py``.

Also the small models and batches that the tests of LD on detectors use.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import InstanceData
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


def joined(*batches: dict) -> dict:
    """One batch of all images."""
    return {key: sum((list(b[key]) for b in batches), []) for key in batches[0]}


def prepared(model, raw: dict) -> dict:
    """What the model's preprocessor makes of a raw batch."""
    return model.data_preprocessor(copy.deepcopy(raw), True)


def models():
    """Student and teacher of the two processes, and of the one."""
    return distilled(gfl(seed=1), gfl(24, seed=2))


#: Two images per rank, of one padded size, with 4 and 3 objects or with none.
BATCHES = dict(
    objects=[batch(seed=3), batch(((128, 128), (96, 128)), seed=5)],
    none_on_a_rank=[batch(seed=3), batch(((128, 128), (96, 128)), without=(0, 1))],
)


def distil(model, data: dict) -> dict:
    """Values and gradients of the distillation terms, one after the other."""
    student = getattr(model, 'module', model)
    found = {}
    for name in TERMS:
        model.zero_grad()
        losses = model(**copy.deepcopy(data), mode='loss')
        # Every parameter takes part, as DDP wants it.
        rest = sum(sum(v) for k, v in losses.items() if isinstance(v, list))
        (losses[name] + 0 * rest).backward()
        found[name] = dict(
            value=losses[name].detach(),
            gradients={
                k: p.grad.clone()
                for k, p in student.named_parameters()
                if p.grad is not None
            },
        )
    return found


def main(rank: int, folder: Path) -> None:
    model = MMDistributedDataParallel(
        models().train(), device_ids=None, broadcast_buffers=False
    )
    results = {
        name: distil(model, prepared(model.module, raw[rank]))
        for name, raw in BATCHES.items()
    }
    torch.save(results, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    torch.set_num_threads(1)
    rank, folder = int(os.environ['RANK']), Path(sys.argv[1])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    main(rank, folder)
    torch.distributed.destroy_process_group()
