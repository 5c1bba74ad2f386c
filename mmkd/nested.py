"""Tensors of nested tuples, lists and dicts, and methods of several modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def move(value: Any, device: torch.device) -> Any:
    """Move every tensor of nested tuples, lists and dicts to a device."""
    # Nothing waits for a copy to the CPU: it would be read before it is complete.
    wait = torch.device(device).type == 'cpu'
    return each(value, lambda tensor: tensor.to(device, non_blocking=not wait))


def each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: each(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [each(item, function) for item in value]
        # A named tuple takes its items one by one.
        return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)
    return value


def copied(tensor: Tensor) -> Tensor:
    """A copy in the usual layout, whatever the one of the original is."""
    return tensor.clone(memory_format=torch.contiguous_format)


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts.

    Example:
        >>> [len(x) for x in tensors_of([torch.ones(1), dict(a=torch.ones(2))])]
        [1, 2]
    """
    found: list[Tensor] = []

    def put(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each(value, put)
    return found


@contextmanager
def patched(
    functions: Mapping[nn.Module, Callable], name: str = 'forward'
) -> Iterator[None]:
    """Replace a method of some modules inside a ``with`` block.

    Args:
        functions: Module -> what is called in the place of its method.
        name: The method.

    Example:
        >>> relu = nn.ReLU()
        >>> with patched({relu: torch.neg}):
        ...     relu(torch.ones(1))
        tensor([-1.])
    """
    previous = {module: vars(module).get(name) for module in functions}
    for module, function in functions.items():
        vars(module)[name] = function
    try:
        yield
    finally:
        for module, method in previous.items():
            if method is None:
                del vars(module)[name]
            else:
                vars(module)[name] = method
