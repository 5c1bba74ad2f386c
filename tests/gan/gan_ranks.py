"""Steps of GANs on two processes, each with half of the pictures, and on one."""

import copy
import os
import sys
from functools import partial
from pathlib import Path

import torch
from gan_toy import (
    JUDGE,
    OPTIMIZERS,
    SMALL,
    SUPER,
    batch,
    compression,
    cyclegan,
    pix2pix,
)
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict

from mmkd.processes import leave_processes

SGD = dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9))
TEACHER = dict(generator=SMALL, checkpoint=None, allow_random=True)
CONFIGS = dict(
    pix2pix=pix2pix(),
    cyclegan=cyclegan(pool_size=0),
    supernet=compression(TEACHER, student=SUPER, inherit=[], discriminator=JUDGE),
)


def run(cfg, wrap, mine) -> dict:
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg)).train()
    wrapped = wrap(model)
    told = dict(OPTIMIZERS, generator=SGD, discriminator=SGD)
    optimizers = build_optim_wrapper(wrapped, told)
    torch.manual_seed(int(os.environ['RANK']))  # seeds are agreed on
    for step in range(3):
        indices = range(4 * step, 4 * step + 4)
        wrapped.train_step(batch(list(indices)[mine]), optimizers)
    # Keys are those of the model itself, when it is saved and when it is loaded.
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other = MODELS.build(copy.deepcopy(cfg))
    other.load_state_dict(state)
    for load in (model.load_state_dict, partial(load_state_dict, model, strict=True)):
        for parameter in model.parameters():
            parameter.data.zero_()
        load(state)
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    return state


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    if rank == 0:
        found = {k: run(cfg, lambda m: m, slice(None)) for k, cfg in CONFIGS.items()}
        torch.save(found, folder / 'alone.pth')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    mine = slice(2 * rank, 2 * rank + 2)
    found = {
        k: run(cfg, MMSeparateDistributedDataParallel, mine)
        for k, cfg in CONFIGS.items()
    }
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
