"""Two real processes that talk to each other over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_two_ranks(script: Path, folder: Path) -> None:
    """Run a script as both ranks; it writes what it finds below ``folder``.

    Args:
        script: Called with ``folder``; ``RANK`` and ``WORLD_SIZE`` are set.
        folder: Where the ranks meet.
    """
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(script.parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env=dict(
                os.environ,
                PYTHONPATH=path,
                OMP_NUM_THREADS='1',
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=280)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs[0][-3000:]
