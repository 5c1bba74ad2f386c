"""Arguments of NetAug, looked at before anything is built."""

from __future__ import annotations

import math
from typing import Any


def factors_of(name: str, given: Any) -> tuple[float, ...]:
    """Factors of numbers of channels.

    Args:
        name: Of the argument.
        given: Its value.

    Raises:
        TypeError: If it is no list of numbers.
        ValueError: If one is not finite, or below 1, or none is above.

    Example:
        >>> factors_of('expand', (1, 1.6))
        (1.0, 1.6)
    """
    is_list = isinstance(given, (list, tuple))
    if not is_list or not all(isinstance(f, (int, float)) for f in given):
        raise TypeError(f'{name} must be a list of factors but is {given!r}')
    factors = tuple(map(float, given))
    if not all(math.isfinite(f) and f >= 1 for f in factors) or not {*factors} - {1}:
        raise ValueError(
            f'{name} must be finite factors of at least 1, one of them larger, but is '
            f'{factors}'
        )
    return factors


def check_scalars(aug_weight: Any, shared_statistics: Any) -> None:
    """Insist on a weight, and on yes or no.

    Args:
        aug_weight: Finite and at least 0.
        shared_statistics: ``True`` or ``False``.

    Raises:
        TypeError: If one is of another type.
        ValueError: If the weight is out of range.
    """
    if not isinstance(aug_weight, (int, float)):
        raise TypeError(f'aug_weight must be a number but is {aug_weight!r}')
    if not isinstance(shared_statistics, bool):
        raise TypeError(
            f'shared_statistics must be True or False but is {shared_statistics!r}'
        )
    if not (math.isfinite(aug_weight) and aug_weight >= 0):
        raise ValueError(f'aug_weight must be finite and >= 0 but is {aug_weight}')
