"""Shows how far the demo is and how long it will take."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 15


class StageDisplay:
    """A bar per stage on a terminal, a line now and then elsewhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        # A console looks up sys.stdout each time, which runs send to their logs.
        console.file = console.file
        self.console = console
        self.bars = Progress(
            TextColumn('{task.description:<26}'),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: Any = None
        self._title = ''
        self._started = self._last_line = 0.0

    def __enter__(self) -> StageDisplay:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def start(self, title: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._title = title
        self._started = self._last_line = time.monotonic()
        self._task = self.bars.add_task(title, total=total, note='')

    def advance(self, done: int, total: int, note: str = '') -> None:
        """Show that ``done`` of ``total`` steps of the stage are done."""
        self.bars.update(self._task, completed=done, total=total, note=note)
        if self._is_time():
            left = (self._last_line - self._started) / done * (total - done)
            self._print(f'{done}/{total}, {left:.0f} s left  {note}')

    def note(self, text: str) -> None:
        """Show how far a stage is whose steps are counted elsewhere."""
        self.bars.update(self._task, note=text)
        if self._is_time():
            self._print(text)

    def finish(self, note: str) -> None:
        """End a stage."""
        total = self.bars.tasks[self._task].total or 1
        self.bars.update(self._task, completed=total, total=total, note=note)
        if self.bars.disable:
            self._print(f'{note} ({time.monotonic() - self._started:.0f} s)')

    def _is_time(self) -> bool:
        """Whether another line is due where there are no bars."""
        now = time.monotonic()
        if not self.bars.disable or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def _print(self, text: str) -> None:
        self.console.print(f'{self._title:<26}{text}', highlight=False, soft_wrap=True)
