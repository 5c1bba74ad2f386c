"""Whether taps record what passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_recording = ContextVar('is_recording', default=True)


def is_recording() -> bool:
    """Whether what a tapped module computes now is recorded."""
    return _is_recording.get()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Let tapped modules run as if they were not tapped inside a ``with`` block.

    Example:
        >>> with unrecorded():
        ...     is_recording()
        False
    """
    token = _is_recording.set(False)
    try:
        yield
    finally:
        _is_recording.reset(token)
