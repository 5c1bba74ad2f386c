"""Random state: of one process, saved, restored, kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank


def get_rng_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's (CPU and CUDA) global generators.

    Returns:
        Builtin containers and tensors only, so that a checkpoint with it loads
        safely.

    Example:
        >>> state = get_rng_state()
        >>> x = torch.rand(1)
        >>> set_rng_state(state)
        >>> bool(torch.rand(1) == x)
        True
    """
    legacy: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = legacy
    return dict(
        python=random.getstate(),
        numpy=(name, keys.tolist(), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    )


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_rng_state` returned.

    CUDA states are restored for the devices that exist here.
    """
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state['numpy']
    np.random.set_state(
        (name, np.asarray(keys, np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(state['torch'].cpu())
    for device, cuda in enumerate(state['cuda'][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), device)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every global generator as it was."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def agreed_seed(device: torch.device) -> int:
    """One seed for all ranks, which may have been seeded differently.

    Args:
        device: Where ranks talk to each other.
    """
    seed = torch.tensor(torch.initial_seed() % 2**62, device=device)
    broadcast(seed)
    return int(seed)


def image_generators(seed: int, step: int, images: int) -> list[np.random.Generator]:
    """A generator for every image of this process, which no other draw disturbs.

    What they give follows from seed, step and the image's index in the batches of all
    ranks: two processes with equally many images draw what one does for all of them.

    Args:
        seed: That of the run, the same on all ranks.
        step: Number of the step.
        images: Number of images in this process.

    Example:
        >>> [g.integers(100).item() for g in image_generators(0, 3, 2)]
        [50, 91]
    """
    first = get_rank() * images
    return [np.random.default_rng([seed, step, first + i]) for i in range(images)]
