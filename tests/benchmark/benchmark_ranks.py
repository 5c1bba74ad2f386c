"""One of two processes that measure together; started by ``test_measure.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from bench_models import setting
from mmengine.registry import DefaultScope

from mmkd.benchmark.measure import measure
from mmkd.benchmark.networks import Networks
from mmkd.benchmark.rows import FLOOR, MMKD, STUDENT
from mmkd.processes import leave_processes


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    found = measure(setting(steps=1), [STUDENT, FLOOR, MMKD]).record()
    with DefaultScope.overwrite_default_scope('mmdet'):
        outer = Networks(setting(), folder / f'rank{rank}').student.outer
    found['wrapped'] = type(outer).__name__
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(int(os.environ['RANK']), Path(sys.argv[1]))
    leave_processes()
