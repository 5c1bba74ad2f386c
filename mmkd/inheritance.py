"""A student that starts with weights of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .taps import resolve

#: How many weights that do not fit a message lists.
LISTED = 3


class Inheritance:
    """Weights that parts of a student start with: copies of the teacher's.

    Args:
        student: The student.
        teacher: Its :class:`~mmkd.teacher.Teacher`, as it was loaded.
        paths: Sub-modules of the student, the same in the teacher; or a dict of
            the student's path -> the teacher's.

    Raises:
        TypeError: If the paths are none.
        ValueError: If there is no such sub-module, its weights have other names or
            shapes, or the teacher has no weights.

    Example:
        >>> from mmkd.teacher import Teacher
        >>> student, teacher = (
        ...     nn.ModuleDict(dict(body=nn.Linear(width, 2), head=nn.Linear(2, 1)))
        ...     for width in (3, 4)
        ... )
        >>> inheritance = Inheritance(student, Teacher(teacher), ['head'])
        >>> inheritance.apply(student)
        >>> bool((student['head'].weight == teacher['head'].weight).all())
        True
        >>> Inheritance(student, Teacher(teacher), ['body'])
        Traceback (most recent call last):
        ValueError: init_from_teacher: 'body' must have the same weights in both ...
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Any,
        paths: Sequence[str] | Mapping[str, str],
    ) -> None:
        self._weights: dict[str, dict[str, Tensor]] = {}
        for ours, theirs in _pairs(paths).items():
            model, theirs = _network(teacher, theirs)
            if getattr(teacher, 'is_own', False):
                raise ValueError(
                    'init_from_teacher needs another network, not a teacher that is '
                    'the student; leave it out'
                )
            if model is None:
                raise ValueError(
                    'init_from_teacher needs the weights of the teacher, which a '
                    'cache does not have; name the teacher itself, or start from a '
                    'checkpoint by load_from'
                )
            wanted = resolve(student, ours).state_dict()
            found = resolve(model, theirs).state_dict()
            _check_same(wanted, found, ours, theirs)
            # Copies: the teacher's own change when its BatchNorm is folded.
            self._weights[ours] = {k: v.clone() for k, v in found.items()}

    def __bool__(self) -> bool:
        return bool(self._weights)

    def __deepcopy__(self, memo: dict) -> Inheritance:
        return self  # nothing in it changes

    def __repr__(self) -> str:
        return ', '.join(self._weights)

    @torch.no_grad()
    def apply(self, student: nn.Module) -> None:
        """Copy them into a student.

        Args:
            student: That of the constructor, or a copy of it.
        """
        count = 0
        for path, weights in self._weights.items():
            own = resolve(student, path).state_dict()
            for name, value in weights.items():
                own[name].copy_(value)
            count += sum(p.numel() for p in resolve(student, path).parameters())
        if self:
            print_log(
                f'mmkd: {self} start with the weights of the teacher '
                f'({count:,} parameters)',
                logger='current',
            )


def _pairs(paths: Any) -> dict[str, str]:
    """Path in the student -> path in the teacher."""
    pairs: Any = paths
    if isinstance(paths, (list, tuple)):
        pairs = {path: path for path in paths}
    if not isinstance(pairs, Mapping) or not all(
        isinstance(name, str) for name in (*pairs, *pairs.values())
    ):
        raise TypeError(
            "init_from_teacher must be a list of sub-modules, such as ['neck', "
            "'bbox_head'], or a dict of the student's path -> the teacher's, but is "
            f'{paths!r}'
        )
    return dict(pairs)


def _network(teacher: Any, path: str) -> tuple[Any, str]:
    """The network that a path of the teacher is in, and the path in it."""
    members = teacher.members
    if '' in members:
        return teacher.model, path
    name, _, rest = path.partition('.')
    if name not in members:
        raise ValueError(
            f'init_from_teacher: {path!r} must start with the name of one of the '
            f"teachers, such as {{'neck': '{next(iter(members))}.neck'}}"
        )
    return members[name].model, rest


def _check_same(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], path: str, at: str
) -> None:
    different = [
        f'{name} is {_shape(ours, name)} in the student and {_shape(theirs, name)} in '
        'the teacher'
        for name in {**ours, **theirs}
        if _shape(ours, name) != _shape(theirs, name)
    ]
    if not different:
        return
    more = len(different) - LISTED
    listed = '; '.join(different[:LISTED]) + (f'; and {more} more' if more > 0 else '')
    where = repr(path) if path == at else f'{path!r} and {at!r} of the teacher'
    raise ValueError(
        f'init_from_teacher: {where} must have the same weights in both networks but '
        f'{listed}; name sub-modules of equal widths, such as '
        "'neck.fpn_convs' in the place of 'neck'"
    )


def _shape(weights: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else 'missing'
