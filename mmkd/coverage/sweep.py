"""Trials one after another, each in a process of its own with a time limit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .families import Family
from .trial import quietly, versions

#: Forked after the host libraries were imported, which takes longer than most trials.
_PROCESSES = multiprocessing.get_context('fork')


def sweep(
    families: Iterable[Family], jobs: int, limit: float
) -> Iterator[dict[str, Any]]:
    """Run trials, so many at a time.

    Args:
        families: What to try.
        jobs: Number of processes.
        limit: Seconds that one of them may take.

    Yields:
        Results as they come; where a process took too long or died, that.
    """
    waiting = list(families)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Running(waiting.pop(0), quietly, limit))
            for one in list(running):
                result = one.result()
                if result is not None:
                    running.remove(one)
                    yield result
            time.sleep(0.2)
    finally:
        for one in running:
            one.stop()


class _Running:
    """A trial in its process."""

    def __init__(
        self, family: Family, function: Callable[[Family], Any], limit: float
    ) -> None:
        self.family = family
        self.deadline = time.monotonic() + limit
        self.limit = limit
        self.ours, theirs = _PROCESSES.Pipe(duplex=False)
        self.process = _PROCESSES.Process(
            target=_send, args=(theirs, function, family), daemon=True
        )
        self.process.start()
        theirs.close()

    def result(self) -> dict[str, Any] | None:
        """What it found, ``None`` while it runs."""
        if self.ours.poll():
            try:
                found = self.ours.recv()
                self.process.join()
                return found
            except EOFError:  # killed, for memory perhaps
                self.process.join()
                return self._broken(f'died with exit code {self.process.exitcode}')
        if time.monotonic() > self.deadline:
            self.stop()
            return self._broken(f'took longer than {self.limit:.0f} s')
        return None

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    def _broken(self, why: str) -> dict[str, Any]:
        return dict(
            family=self.family.name,
            config=self.family.config,
            model=list(self.family.model),
            versions=versions(),
            stock=f'the process {why}',
        )


def _send(pipe: Any, function: Callable[[Family], Any], family: Family) -> None:
    pipe.send(function(family))
    pipe.close()
