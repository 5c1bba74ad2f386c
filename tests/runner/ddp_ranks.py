"""One of two processes that train together; started by ``test_ddp.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from toy import (
    CWD,
    HINT,
    by_iteration,
    distilled,
    quicken,
    recorded,
    train,
    training_state,
)

from mmkd.processes import leave_processes

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)
SGD = dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=0.1)
#: Nothing random: two ranks with half the batch do what one does with all of it.
JOINED = {
    'train_dataloader.dataset.augment': False,
    'optim_wrapper.optimizer': SGD,
    'default_hooks.schedule': dict(
        type='mmkd.DistillScheduleHook', losses=dict(loss_hint=dict(end=1))
    ),
}
#: Everything random, and otherwise on every rank; workers that stay.
RANDOM = {
    'train_cfg.max_epochs': 3,
    'randomness.diff_rank_seed': True,
    'train_dataloader.num_workers': 1,
    'train_dataloader.persistent_workers': True,
}
WEIGHT_0 = dict(
    loss_hint=dict(HINT, loss_weight=0, adapter=dict(in_channels=8, out_channels=12)),
    loss_cwd=CWD,
)


def joined_model(teacher: str | None = None) -> dict:
    model = distilled(BOTH, norm='GN', dropout=0.0)
    return dict(model, teacher=teacher) if teacher else model


def main(rank: int, folder: Path) -> None:
    ranks = {
        'launcher': 'pytorch',
        'train_dataloader.batch_size': 2,
        'model_wrapper_cfg': dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=False,
        ),
    }

    def run(name: str, model: dict, **changes) -> None:
        runner = train(model, folder / name, **{**ranks, **changes})
        assert isinstance(runner.model, MMDistributedDataParallel)
        results[name] = dict(steps=recorded(runner), state=training_state(runner))

    results: dict = {}
    run('joined', joined_model(), **JOINED)
    run('joined, ema', joined_model('ema'), **JOINED)
    run('weight 0', distilled(WEIGHT_0, norm='GN'))
    run('epochs', distilled(BOTH, norm='GN'), **RANDOM)
    changes = dict(
        RANDOM, resume=True, load_from=str(folder / 'epochs' / 'epoch_1.pth')
    )
    run('epochs resumed', distilled(BOTH, norm='GN'), **changes)
    changes = by_iteration(**RANDOM)
    del changes['train_cfg.max_epochs']
    run('iterations', distilled(BOTH, norm='GN'), **changes)
    changes.update(resume=True, load_from=str(folder / 'iterations' / 'iter_3.pth'))
    run('iterations resumed', distilled(BOTH, norm='GN'), **changes)
    torch.save(results, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    quicken()
    torch.set_num_threads(1)
    rank, folder = int(os.environ['RANK']), Path(sys.argv[1])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    main(rank, folder)
    leave_processes()
