"""Steps under DistributedDataParallel, and in one process with all texts."""

import os
import sys
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS
from tiny_text import PHRASES, THIN

import mmkd  # noqa: F401
from mmkd.processes import leave_processes

# Of other lengths in either process: a mean over tokens is not one of means.
TEXTS = ['a red cat sits on the mat . dog .', 'zebra .', 'big person .', 'a bus .']
STRUCTURE = dict(THIN, normalization_type='layer_norm')


def run(bert: str, wrap, mine: slice) -> dict:
    torch.manual_seed(0)
    student = dict(
        type='mmkd.MobileBertModel', name=bert, structure=STRUCTURE, **PHRASES
    )
    model = MODELS.build(
        dict(
            type='mmkd.MobileBertTransfer',
            student=student,
            teacher=bert,
            transfer_iters=6,
            soft_targets=0.0,
        )
    ).train()
    model.transfer.max_iters, model.transfer.seed = 9, 5
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for iteration in range(9):
        model.transfer.iteration = iteration
        tokens = model.tokenize(TEXTS)
        tokens = {key: value[mine] for key, value in tokens.items()}
        losses = wrapped(tokens, mode='loss')
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    bert = (folder / 'bert').read_text()
    if rank == 0:
        torch.save(run(bert, lambda model: model, slice(None)), folder / 'alone.pth')
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )

    def wrap(model):
        return MMDistributedDataParallel(model, find_unused_parameters=True)

    found = run(bert, wrap, slice(2 * rank, 2 * rank + 2))
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
