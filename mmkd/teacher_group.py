"""Several teachers, each for the terms that name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .base_teacher import BaseTeacher
from .batch import Batch
from .config import own_kind
from .dry_run import DryRun
from .pruning import Reads
from .taps import Tap
from .teacher import Teacher, build_teacher


class TeacherGroup(BaseTeacher):
    """Several teachers by name.

    A term says which of them it listens to (``teacher='a'``). Each runs once in a step,
    as far as its own terms need, and not at all while they are off. A path in here
    starts with the name: ``'a.neck'`` is the ``neck`` of ``'a'``.

    Args:
        members: Name -> teacher.

    Raises:
        ValueError: If a name is no plain word, or there is no teacher.

    Example:
        >>> group = TeacherGroup(dict(a=Teacher(nn.ReLU()), b=Teacher(nn.ReLU())))
        >>> list(group.members)
        ['a', 'b']
    """

    def __init__(self, members: Mapping[str, Teacher]) -> None:
        for name in members:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(
                    f"names of teachers must be plain words such as 'a', not {name!r}"
                )
        if not members:
            raise ValueError('teacher=dict(teachers=...) must name a teacher')
        self._members = dict(members)
        self.num_parameters = sum(m.num_parameters for m in members.values())
        self.source = '; '.join(f'{n}: {m.source}' for n, m in members.items())
        self.digest = ' '.join(m.digest for m in members.values())
        self._seen: dict[str, DryRun] = {}

    @property
    def members(self) -> dict[str, Any]:
        return self._members

    def match_inputs(self, student_preprocessor: nn.Module | None) -> None:
        for member in self.members.values():
            member.match_inputs(student_preprocessor)

    def check_term(self, loss: Any) -> None:
        if loss.teacher not in self.members:
            raise ValueError(
                'it must say by teacher=... which of the teachers it listens to, '
                f'{" or ".join(map(repr, self.members))}, but says '
                f'{loss.teacher or None!r}'
            )

    def apply(self, function: Any) -> None:
        for member in self.members.values():
            member.apply(function)

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        name, path = _split(path)
        return self.members[name].tap_type(path, tap_of)

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        """Dry runs of all that are tapped, at one size."""
        parts = _parts(tap_types)
        size = at_least
        for name in parts:
            self._seen[name] = self.members[name].dry_run(parts[name], size)
            size = max(size, self._seen[name].size)
        for name, seen in self._seen.items():
            if name in parts and seen.size < size:
                self._seen[name] = self.members[name].dry_run(parts[name], size)
        found = {name: self._seen[name] for name in parts}
        reasons = [f'{n}: {seen.failure}' for n, seen in found.items() if seen.failure]
        return DryRun(
            _joined({name: seen.taps for name, seen in found.items()}),
            '; '.join(reasons) or None,
            [_path(name, p) for name, seen in found.items() for p in seen.idle],
            size,
        )

    def economize(self, seen: DryRun, reads: Reads) -> None:
        for name, part in _parts(reads).items():
            self.members[name].economize(self._seen[name], part)

    def run(
        self,
        batch: Batch,
        tap_types: Mapping[str, type[Tap]],
        stop_after: Mapping[str, int] | None = None,
        reads: Reads | None = None,
    ) -> dict[str, Tap]:
        stops = _parts(stop_after or {})
        fields = _parts(reads or {})
        return _joined(
            {
                name: self.members[name].run(
                    batch,
                    types,
                    None if stop_after is None else stops[name],
                    None if reads is None else fields[name],
                )
                for name, types in _parts(tap_types).items()
            }
        )

    def completed(
        self, taps: dict[str, Tap], student: Mapping[str, Tap]
    ) -> dict[str, Tap]:
        return _joined(
            {
                name: self.members[name].completed(part, student)
                for name, part in _parts(taps).items()
            }
        )

    def precision(self, inputs: Any, path: str = '') -> Any:
        return self.members[_split(path)[0]].precision(inputs)

    def __repr__(self) -> str:
        return '; '.join(f'{name}: {m!r}' for name, m in self.members.items())


def build_teachers(teacher: Any, scope: str | None = None) -> BaseTeacher:
    """Build the teacher of a config, or its several ones.

    Args:
        teacher: See :func:`mmkd.teacher.build_teacher`; or ``dict(teachers=dict(a=...,
            b=...))`` with an entry like that for each.
        scope: Registry scope for a config that names none.

    Raises:
        ValueError: If one of several is the student itself, or a cache, or something
            is named beside them.
        TypeError: If ``teachers`` is no dict.
    """
    if not is_group(teacher):
        return build_teacher(teacher, scope)
    beside = sorted(set(teacher) - {'teachers', '_scope_'})
    if beside:
        raise ValueError(
            f'options of several teachers belong into the entry of each, not beside '
            f'teachers: {", ".join(beside)}'
        )
    members = teacher['teachers']
    if not isinstance(members, Mapping):
        raise TypeError(
            'teachers must be a dict of name -> teacher but is a '
            f'{type(members).__name__}'
        )
    members = {n: entry for n, entry in members.items() if entry is not None}
    for name, entry in members.items():
        is_cache = isinstance(entry, Mapping) and entry.get('cache') is not None
        if own_kind(entry) or is_cache or is_group(entry):
            raise ValueError(
                f'each of several teachers must be a network that runs but {name} is '
                f'{entry!r}; use that one alone, or name a network'
            )
    return TeacherGroup({n: build_teacher(e, scope) for n, e in members.items()})


def is_group(teacher: Any) -> bool:
    """Whether a ``teacher`` entry names several.

    Example:
        >>> is_group(dict(teachers=dict(a='a.pth'))), is_group('a.pth')
        (True, False)
    """
    return isinstance(teacher, Mapping) and 'teachers' in teacher


def class_maps(teacher: Any) -> dict[str, Any]:
    """What the classes of the student are in each teacher, where the config says it.

    Args:
        teacher: A ``teacher`` entry.

    Returns:
        Name -> ``classes`` of its entry; the name of an only teacher is empty.

    Example:
        >>> class_maps(dict(teachers=dict(a=dict(config='a.py', classes=[1, None]))))
        {'a': [1, None]}
    """
    entries = teacher['teachers'] if is_group(teacher) else {'': teacher}
    return {
        name: entry['classes']
        for name, entry in dict(entries if isinstance(entries, Mapping) else {}).items()
        if isinstance(entry, Mapping) and entry.get('classes') is not None
    }


def _path(name: str, path: str) -> str:
    return f'{name}.{path}'


def _split(path: str) -> tuple[str, str]:
    name, _, rest = path.partition('.')
    return name, rest


def _parts(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What belongs to each, by its own paths."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, rest = _split(path)
        parts.setdefault(name, {})[rest] = value
    return parts


def _joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {_path(n, path): x for n, part in parts.items() for path, x in part.items()}
