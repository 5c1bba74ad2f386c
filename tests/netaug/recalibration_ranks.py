"""Statistics of two processes, each with one batch, and of one with both."""

import os
import sys
from pathlib import Path

import torch
from blocks_net import blocks_net
from mmengine.registry import MODELS
from test_recalibration import batches

import mmkd  # noqa: F401
from mmkd.hooks.recalibrate_hook import recalibrate
from mmkd.processes import leave_processes


def run(data) -> dict:
    torch.manual_seed(0)
    model = MODELS.build(blocks_net()).train()
    recalibrate(model, data)
    return model.state_dict()


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    if rank == 0:
        torch.save(run(batches(2)), folder / 'alone.pth')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    torch.save(run(batches(2)[rank : rank + 1]), folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
