"""Metrics of pictures on two processes, the last one of them given twice."""

import os
import sys
from pathlib import Path

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS
from torch import nn

import mmkd  # noqa: F401
from mmkd.processes import leave_processes


@MODELS.register_module(force=True)
class ToyFeatures(nn.Module):
    """Maps of two sizes; the last one is what is used."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(width, 3, 3, 3, generator=generator))

    def forward(self, x):
        return x, nn.functional.conv2d(x, self.weight, stride=2).relu()


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
FEATURES = dict(model=dict(type='ToyFeatures'), mean=MEAN, std=STD)
METRIC = dict(
    type='mmkd.PictureMetrics',
    metric=['psnr', 'ssim', 'fid', 'kid'],
    features=FEATURES,
    kid_subset_size=4,
)
COUNT = 7


def pictures(count=COUNT, size=(16, 20), seed=0):
    """What a model gives: smooth pictures, and the same with noise."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        small = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
        target = nn.functional.interpolate(small, size, mode='bilinear')[0]
        noise = torch.rand(3, *size, generator=generator) - 0.4
        generated = (target + 0.5 * noise).clamp(-1, 1)
        found.append(dict(source=target.flip(0), generated=generated, target=target))
    return found


def evaluated(samples, size, metric=METRIC, batch_size=2):
    evaluator = Evaluator(metric)
    for start in range(0, len(samples), batch_size):
        evaluator.process(data_samples=samples[start : start + batch_size])
    return evaluator.evaluate(size)


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    samples = pictures()
    samples.append(samples[0])  # as a sampler pads
    found = evaluated(samples[rank::2], COUNT)
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
