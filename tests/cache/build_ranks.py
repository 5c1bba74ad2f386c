"""Builds a cache as one process of several: its folder, what it is made of."""

import sys
from pathlib import Path

import torch
from mmengine.config import Config

import mmkd.cache.build as build

if __name__ == '__main__':
    torch.set_num_threads(1)
    build.IMAGES_PER_SHARD = 3
    folder = Path(sys.argv[1])
    builder = build.CacheBuilder(
        Config.fromfile(folder / 'run.py'), str(folder / 'cache'), 'cpu'
    )
    builder.build(lambda images: print(images, flush=True))
