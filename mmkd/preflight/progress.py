"""Shows what a check is doing: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Stages:
    """The stages of a check, one after the other.

    Args:
        console: Where they are shown; not where the report goes.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Any]:
        """Show a stage while the block runs.

        Args:
            title: What is done.
            total: Number of steps, if known.

        Yields:
            Function to call after every step.
        """
        if not self.console.is_terminal:
            self.console.print(f'{title} ...', highlight=False)
            yield lambda: None
            return
        columns = ('{task.description}', BarColumn(28), TimeElapsedColumn())
        counted = (MofNCompleteColumn(), TimeRemainingColumn()) if total else ()
        with Progress(
            *columns, *counted, console=self.console, transient=True
        ) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
