"""Which of the processes of torchrun this is; alone without it."""

from __future__ import annotations

import os

import torch


def best_device() -> str:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    return 'cpu'


def rank() -> int:
    """Number of this process."""
    return int(os.environ.get('RANK', 0))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get('WORLD_SIZE', 1))
