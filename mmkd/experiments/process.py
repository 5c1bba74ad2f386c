"""Training in a process of its own, watched by its log."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def run_training(
    command: Sequence[str], log: Path, tell: Callable[[str], None] = lambda text: None
) -> tuple[int, float]:
    """Run a command to its end; whoever stops this stops it.

    Args:
        command: Such as that of ``tools/train.py``.
        log: File for what it prints; its folder is made.
        tell: Called every second with how far it is.

    Returns:
        Exit code and wall time in seconds.

    Raises:
        RuntimeError: If it was killed from outside.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _terminated_orderly(), log.open('w') as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(1)
                tell(how_far(log.read_text(errors='replace')))
        finally:
            process.kill()
            process.wait()
    if process.returncode < 0:
        raise RuntimeError(f'the run was killed from outside: see {log}')
    return process.returncode, time.monotonic() - started


@contextmanager
def _terminated_orderly() -> Iterator[None]:
    """Let SIGTERM run what is below ``finally``, as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def how_far(text: str) -> str:
    """Epoch, iteration and time left, from the last line of a log that tells.

    Example:
        >>> how_far('... Epoch(train)  [1][20/26]  lr: 1.0e-03  eta: 0:03:20  time: 1')
        '[1][20/26], 0:03:20 left'
        >>> how_far('')
        'starting'
    """
    lines = [line for line in text.splitlines() if ' eta: ' in line]
    if not lines:
        return 'starting'
    where, _, eta = lines[-1].partition(' eta: ')
    where = where.rpartition('(train)')[2].split('lr:')[0].strip()
    return f'{where.removesuffix("base_").strip()}, {eta.split()[0]} left'
