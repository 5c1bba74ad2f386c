"""Which level of the student's pyramid is compared with which of the teacher's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import levels, paired_levels

Pairs = list[tuple[int, int]]


def check_pairs(value: Any) -> str | Pairs | None:
    """The argument ``levels`` of a loss.

    Args:
        value: ``None``, ``'stride'``, or pairs of the student's and the teacher's
            level, counted from 0.

    Returns:
        The same, pairs as tuples.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> check_pairs([[0, 1], [1, 2]])
        [(0, 1), (1, 2)]
    """
    if value is None or (isinstance(value, str) and value == 'stride'):
        return value
    rule = (
        "levels must be None, 'stride' or a list of pairs (student's level, teacher's "
        f'level), counted from 0, but is {value!r}'
    )
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(rule)
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(rule)
        if any(type(index) is not int or index < 0 for index in pair):
            raise ValueError(rule)
    return [(ours, theirs) for ours, theirs in value]


def pairs_by_stride(student: Any, teacher: Any) -> Pairs:
    """Levels of one size in both pyramids; a level without a partner is left out.

    Args:
        student: What its tap yielded.
        teacher: The same of the teacher, for the same images.

    Returns:
        Index of the student's level and of the teacher's.

    Raises:
        ValueError: If no size is in both, or one has two levels in one of them.

    Example:
        >>> import torch
        >>> p2, p3, p4 = (torch.zeros(1, 1, n, n) for n in (8, 4, 2))
        >>> pairs_by_stride((p3, p4), (p2, p3, p4))
        [(0, 1), (1, 2)]
    """
    ours, theirs = (
        [tuple(level.shape[2:]) for level in levels(value)]
        for value in (student, teacher)
    )
    shared = [size for size in dict.fromkeys(ours) if size and size in theirs]
    if not shared:
        raise ValueError(
            "levels='stride' needs a level of the same size in student and teacher but "
            f'they yield maps of {ours} and {theirs}'
        )
    if any(max(ours.count(size), theirs.count(size)) > 1 for size in shared):
        raise ValueError(
            "levels='stride' needs levels of different sizes but student and teacher "
            f'yield maps of {ours} and {theirs}; give pairs such as levels=[(0, 0)]'
        )
    return [(ours.index(size), theirs.index(size)) for size in shared]


def paired(
    student: Any, teacher: Any, pairs: str | Pairs | None
) -> list[tuple[Tensor, Tensor]]:
    """Levels of student and teacher side by side.

    Args:
        student: What its tap yielded.
        teacher: The same of the teacher.
        pairs: Which belong together, as :func:`check_pairs` returns it.

    Returns:
        List of the student's and the teacher's tensor.

    Raises:
        ValueError: If there is no such level, or the numbers differ without pairs.
    """
    if pairs is None:
        return paired_levels(student, teacher)
    if isinstance(pairs, str):
        pairs = pairs_by_stride(student, teacher)
    ours, theirs = levels(student), levels(teacher)
    found: list[tuple[Tensor, Tensor]] = []
    for one, other in pairs:
        if one >= len(ours) or other >= len(theirs):
            raise ValueError(
                f'levels has the pair {(one, other)} but student and teacher have '
                f'{len(ours)} and {len(theirs)} levels, counted from 0'
            )
        found.append((ours[one], theirs[other]))
    return found
