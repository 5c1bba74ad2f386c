"""Without what host libraries log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger


@contextmanager
def quiet(
    level: int = logging.ERROR, logger: logging.Logger | None = None
) -> Iterator[None]:
    """Let a logger tell little inside of a ``with`` block.

    Args:
        level: From which on it tells.
        logger: By default MMEngine's current one.
    """
    told: Any = logger or MMLogger.get_current_instance()
    before = told.level
    told.setLevel(level)
    try:
        yield
    finally:
        told.setLevel(before)
