"""Distillation maths runs in at least float32, whatever autocast says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Too coarse for what losses compute.
HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a tensor function with autocast off and half tensors upcast.

    float16 and bfloat16 arguments become float32 (a temperature softmax over
    thousands of positions underflows in either), float64 stays float64, so
    that ``gradcheck`` is meaningful.

    Args:
        function: A function whose first argument is a tensor.

    Returns:
        The wrapped function.

    Example:
        >>> @full_precision
        ... def total(x):
        ...     return x.sum()
        >>> total(torch.ones(3, dtype=torch.bfloat16)).dtype
        torch.float32
    """

    def upcast(value: object) -> object:
        is_half = isinstance(value, Tensor) and value.dtype in HALF
        return value.float() if is_half else value  # type: ignore[attr-defined]

    @functools.wraps(function)
    def wrapper(student: Tensor, *args: object, **kwargs: object) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return function(
                upcast(student),
                *map(upcast, args),
                **{key: upcast(value) for key, value in kwargs.items()},
            )

    return wrapper


def averaged_rows(
    rows: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None
) -> Tensor:
    """Weighted sum of the values of rows, divided.

    Args:
        rows: Shape (N,).
        weight: Weight of every row, shape (N,); 1 if not given.
        avg_factor: Divisor; the number of rows if not given.

    Returns:
        Scalar tensor. A differentiable zero without rows.

    Example:
        >>> averaged_rows(torch.tensor([1.0, 3.0]), None, None)
        tensor(2.)
    """
    if weight is not None:
        rows = rows * weight
    if avg_factor is None:
        avg_factor = max(len(rows), 1)
    return rows.sum() / avg_factor


def only_weighted(weight: Tensor | None, *rows: Tensor) -> tuple[Tensor, ...]:
    """Rows with 0 in the place of those of weight 0.

    What they hold must not matter: infinity times 0 is NaN, in the gradient, too.

    Args:
        weight: Weight of every row, shape (N,), or a mask of the shape of the rows up
            to axes of size 1; ``None`` if all count.
        rows: Shape (N, ...).

    Returns:
        The rows.

    Example:
        >>> only_weighted(torch.tensor([0.0, 2.0]), torch.tensor([[torch.inf], [3.0]]))
        (tensor([[0.],
                [3.]]),)
    """
    if weight is None:
        return rows
    unused = weight == 0
    missing = rows[0].dim() - unused.dim()
    unused = unused.view(*unused.shape, *[1] * missing)
    return tuple(x.masked_fill(unused, 0) for x in rows)


def check_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise ``ValueError`` unless both tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            'student and teacher must have the same shape but have '
            f'{tuple(student.shape)} and {tuple(teacher.shape)}'
        )


def check_mask(mask: Tensor, features: Tensor) -> None:
    """Raise ``ValueError`` unless the mask has one value per position."""
    expected = (features.shape[0], 1, *features.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(f'mask must have shape {expected} but has {tuple(mask.shape)}')


def check_rows(logits: Tensor, weight: Tensor | None) -> None:
    """Raise ``ValueError`` unless logits are rows, with one weight each."""
    if logits.dim() != 2:
        raise ValueError(
            f'logits must have shape (N, K) but have {tuple(logits.shape)}'
        )
    if weight is not None and tuple(weight.shape) != (len(logits),):
        raise ValueError(
            f'weight must have shape {(len(logits),)} but has {tuple(weight.shape)}'
        )


def check_temperature(temperature: float) -> None:
    """Raise ``ValueError`` unless the temperature is positive and finite."""
    if not isinstance(temperature, (int, float)):
        raise TypeError(f'temperature must be a number but is {temperature!r}')
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f'temperature must be finite and > 0 but is {temperature}')
