"""Shows how far a build is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Seconds between two lines where there is no terminal.
_SECONDS = 30


@contextmanager
def shown(images: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a build while the block runs.

    Args:
        images: How many there are.

    Yields:
        Function to call with the number of images that were done.
    """
    console = Console(stderr=True)
    columns = (BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        '{task.description}',
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task('images', total=images)
        done, next_line = 0, time.monotonic() + _SECONDS

        def advance(count: int) -> None:
            nonlocal done, next_line
            done += count
            progress.advance(task, count)
            if not console.is_terminal and time.monotonic() > next_line:
                console.print(f'{done} of {images} images', highlight=False)
                next_line = time.monotonic() + _SECONDS

        yield advance
