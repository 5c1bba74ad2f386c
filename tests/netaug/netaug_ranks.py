"""Five steps under DistributedDataParallel, and in one process with all pictures."""

import os
import sys
from pathlib import Path

import torch
from blocks_net import augmented
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS

import mmkd  # noqa: F401

#: Folders of tests are named after what they test.
WIDE = sys.argv[-1].endswith('wide')
PICTURES = torch.randn(5, 4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def run(wrap, mine: slice) -> dict:
    torch.manual_seed(0)
    # GroupNorm: BatchNorm's statistics are those of a process.
    wide = dict(kind='mobile', width=(1, 2)) if WIDE else {}
    model = MODELS.build(augmented(block_norm='GN', norm='GN', dropout=0.0, **wide))
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    drawn = []
    for pictures in PICTURES:
        drawn.append(model.netaug.sample())
        losses = wrapped(pictures[mine], list(range(4))[mine], mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return dict(drawn=drawn, weights=weights)


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
    found = run(MMDistributedDataParallel, slice(2 * rank, 2 * rank + 2))
    torch.save(found, folder / f'rank{rank}.pth')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
