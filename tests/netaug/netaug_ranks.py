"""Five steps on two processes, and in one process with all pictures."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from blocks_net import augmented
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS
from torch.distributed.fsdp import FullyShardedDataParallel

import mmkd  # noqa: F401
from mmkd.processes import leave_processes

#: The folder is named after what is tested.
KIND = Path(sys.argv[-1]).name
PICTURES = torch.randn(5, 4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def run(wrap, mine: slice) -> dict:
    torch.manual_seed(0)
    # GroupNorm: BatchNorm's statistics are those of a process.
    wide = dict(kind='mobile', width=(1, 2)) if KIND == 'wide' else {}
    model = MODELS.build(augmented(block_norm='GN', norm='GN', dropout=0.0, **wide))
    netaug, wrapped = model.netaug, wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    drawn = []
    for pictures in PICTURES:
        drawn.append(netaug.sample())
        losses = wrapped(pictures[mine], list(range(4))[mine], mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    is_sharded = isinstance(wrapped, FullyShardedDataParallel)
    whole = FullyShardedDataParallel.summon_full_params if is_sharded else nullcontext
    with whole(wrapped):
        weights = {
            name.replace('_fsdp_wrapped_module.', ''): p.detach().clone()
            for name, p in model.named_parameters()
        }
    return dict(drawn=drawn, weights=weights)


def sharded(model):
    device = torch.device('cpu')
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=device)


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    if rank == 0:
        alone = run(lambda model: model, slice(None))
        torch.save(alone, folder / 'alone.pth')
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    torch.manual_seed(rank)  # the seed is agreed on
    wrap = sharded if KIND == 'sharded' else MMDistributedDataParallel
    found = run(wrap, slice(2 * rank, 2 * rank + 2))
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
