"""What a check found out: sentences with a remedy, in three grades."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..cli import sentence


class Findings:
    """Errors, warnings and notes, each one sentence, each said once.

    Attributes:
        errors: Training would fail, or would not be what the config says.
        warnings: It would run, but probably not as meant.
        notes: Good to know.

    Example:
        >>> findings = Findings()
        >>> with findings.guarded('the data', 'mend it'):
        ...     raise ValueError('no pictures')
        >>> findings.errors
        ['the data: no pictures; mend it']
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def error(self, text: str) -> None:
        """Add an error."""
        _add(self.errors, text)

    def warn(self, text: str) -> None:
        """Add a warning."""
        _add(self.warnings, text)

    def note(self, text: str) -> None:
        """Add a note."""
        _add(self.notes, text)

    @contextmanager
    def guarded(self, what: str, remedy: str = '') -> Iterator[None]:
        """Make an error of whatever the block raises, and go on after it.

        ``MMKD_TRACEBACK=1`` lets it through.

        Args:
            what: What is being tried.
            remedy: What to do about it.
        """
        try:
            yield
        except Exception as error:
            if os.environ.get('MMKD_TRACEBACK'):
                raise
            advice = remedy or 'MMKD_TRACEBACK=1 tells where'
            self.error(f'{what}: {told(error)}; {advice}')


def told(error: BaseException) -> str:
    """An error in one line, with its type where its message alone would be a riddle."""
    text = sentence(error)
    plain = isinstance(error, (ValueError, TypeError, OSError)) and ' ' in text
    return text if plain else f'{type(error).__name__}: {text}'


def _add(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)
