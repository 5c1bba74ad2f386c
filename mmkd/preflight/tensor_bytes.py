"""How many bytes of tensors a step holds at its peak, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
    """Counts the storages that operators make while it is entered, as they die.

    What an operator allocates and frees within itself is not seen, nor is memory
    that an allocator keeps for later: the figure is below what a process needs.

    Attributes:
        peak: Most bytes that were alive at once.

    Example:
        >>> with TensorBytes() as seen:
        ...     x = torch.zeros(10)
        ...     x = torch.zeros(5)
        ...     y = x.view(5, 1)
        >>> seen.peak  # ten floats, and five before the ten are freed
        60
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in tree_leaves(result):
            # In-place results and views live in a storage that was there before.
            if isinstance(leaf, Tensor) and _key(leaf) not in before:
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._alive -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage counted once."""
    storages = {_key(x): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def held_by(module: nn.Module) -> list[Tensor]:
    """Parameters, their gradients, and buffers."""
    weights = list(module.parameters())
    gradients = [p.grad for p in weights if p.grad is not None]
    return [*weights, *gradients, *module.buffers()]


def peak_bytes(step: Callable[[], Any], before: Iterable[Tensor]) -> tuple[int, str]:
    """Peak memory of a step.

    Args:
        step: Runs it.
        before: What is in memory before it and stays, such as weights. On CUDA the
            allocator knows that.

    Returns:
        Bytes, and what was measured.
    """
    held = list(before)
    device = held[0].device if held else torch.device('cpu')
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(
            device
        ), 'torch.cuda.max_memory_allocated'
    base = bytes_of(held)
    with TensorBytes() as seen:
        step()
    return base + seen.peak, 'bytes of live tensors, weights included'
