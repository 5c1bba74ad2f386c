"""Several things that do not fit, found in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Built from one text, so that a copy can say which term they belong to.
_PLAIN = (ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class Problem:
    """One of them.

    Args:
        where: Log name of the loss, ``'teacher'``, or empty.
        error: What was raised.
    """

    where: str
    error: Exception


class SeveralProblems(ValueError):
    """Raised where more than one thing does not fit."""


class Problems:
    """Collects errors, so that the second is not found after the first is mended.

    Example:
        >>> problems = Problems()
        >>> with problems.caught('loss_a'):
        ...     raise ValueError('weight must be >= 0')
        >>> with problems.caught('teacher'):
        ...     raise OSError('no such file')
        >>> try:
        ...     problems.raise_all()
        ... except ValueError as error:
        ...     print(error)
        ...     print([problem.where for problem in problems_of(error)])
        2 problems: loss_a: weight must be >= 0; no such file
        ['loss_a', 'teacher']
    """

    def __init__(self) -> None:
        self.found: list[Problem] = []

    @contextmanager
    def caught(self, where: str = '') -> Iterator[None]:
        """Go on after an error in the block.

        Args:
            where: Log name of a loss, which is put before the message, or
                ``'teacher'``.
        """
        try:
            yield
        except Exception as error:
            named = _named(error, where)
            # A path that neither network has is one mistake.
            if str(named) not in map(str, (problem.error for problem in self.found)):
                self.found.append(Problem(where, named))

    def raise_all(self) -> None:
        """Raise what was found: one error as it is, several as one.

        Raises:
            SeveralProblems: Of more than one, with all messages.
        """
        if not self.found:
            return
        error: Any = self.found[0].error
        if len(self.found) > 1:
            texts = '; '.join(str(problem.error) for problem in self.found)
            error = SeveralProblems(f'{len(self.found)} problems: {texts}')
        error.problems = list(self.found)
        raise error


def problems_of(error: BaseException) -> list[Problem]:
    """What :meth:`Problems.raise_all` raised, also where another error wraps it.

    Args:
        error: Any exception.

    Returns:
        The problems; empty for an error of another origin.
    """
    at: BaseException | None = error
    while at is not None:
        if getattr(at, 'problems', None):
            return at.problems  # type: ignore[attr-defined]
        at = at.__cause__ or at.__context__
    return []


def _named(error: Exception, where: str) -> Exception:
    text = str(error.args[0] if error.args else error)
    known = not where or where == 'teacher' or text.startswith(where)
    if known or type(error) not in _PLAIN:
        return error
    named = type(error)(f'{where}: {text}')
    named.__cause__ = error
    named.__traceback__ = error.__traceback__
    return named
