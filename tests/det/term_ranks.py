"""Distillation terms, one after the other, in one of two processes or in one."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from mmengine.model import MMDistributedDataParallel

from mmkd.processes import leave_processes


def joined(*batches: dict) -> dict:
    """One batch of all images."""
    return {key: sum((list(b[key]) for b in batches), []) for key in batches[0]}


def prepared(model, raw: dict) -> dict:
    """What the model's preprocessor makes of a raw batch."""
    return model.data_preprocessor(copy.deepcopy(raw), True)


def distil(model, data: dict, terms: Mapping) -> dict:
    """Values and gradients of the terms."""
    student = getattr(model, 'module', model)
    found = {}
    for name in terms:
        model.zero_grad()
        losses = model(**copy.deepcopy(data), mode='loss')
        # Every parameter takes part, as DDP wants it.
        parts = [v if isinstance(v, list) else [v] for v in losses.values()]
        rest = sum(x for part in parts for x in part if x.requires_grad)
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


def run_rank(script: ModuleType) -> None:
    """One process: distil on its own batches and store what was found.

    Args:
        script: Has ``models()``, ``TERMS`` and ``BATCHES``, a batch per rank.
    """
    torch.set_num_threads(1)
    rank, folder = int(os.environ['RANK']), Path(sys.argv[1])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    model = MMDistributedDataParallel(
        script.models().train(), device_ids=None, broadcast_buffers=False
    )
    results = {
        name: distil(model, prepared(model.module, raw[rank]), script.TERMS)
        for name, raw in script.BATCHES.items()
    }
    torch.save(results, folder / f'rank{rank}.pth')
    del model
    leave_processes()
