"""What all the operator fallbacks share: precision, autocast and autograd."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

# Rough cap on the elements of one temporary: operators that gather a window
# per RoI work through the RoIs in chunks below it instead of exhausting memory.
MAX_GATHER = 1 << 24


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Common dtype to calculate in: the widest given one, at least float32.

    Example:
        >>> compute_dtype(torch.zeros(1, dtype=torch.float16))
        torch.float32
    """
    dtype = torch.float32
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def upcast(*tensors: Tensor) -> list[Tensor]:
    """The tensors, contiguous, in their :func:`compute_dtype`."""
    dtype = compute_dtype(*tensors)
    return [t.to(dtype).contiguous() for t in tensors]


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Autocast off; nothing on devices for which older torch has none."""
    if device_type in ('cpu', 'cuda', 'xpu'):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def extension_op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function as the compiled extension would: no autograd, no autocast.

    A caller may sit inside an autocast region, where a matrix product of
    tensors that were cast up to float32 would silently fall back to half.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.no_grad(), _no_autocast(first.device.type):
            return function(*args, **kwargs)

    return wrapper


def recomputed_grads(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Vector-Jacobian product of ``forward`` by running it again under autograd.

    Args:
        forward: Differentiable function of ``inputs``.
        inputs: Tensors in the dtype to calculate in.
        grad_output: Gradient with respect to the result of ``forward``.

    Returns:
        One gradient per input, zeros for an input that was not used.
    """
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in inputs]
        output = forward(*leaves)
        grads = torch.autograd.grad(
            output, leaves, grad_output.to(output.dtype), allow_unused=True
        )
    return tuple(
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    )


def chunk_size(elements_per_item: int) -> int:
    """Items to handle at once so that a temporary stays below ``MAX_GATHER``."""
    return max(1, MAX_GATHER // max(1, elements_per_item))
