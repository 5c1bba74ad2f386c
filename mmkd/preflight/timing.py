"""What running something takes: wall time, CPU time, GPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Seconds.

    Args:
        wall: On the clock on the wall.
        cpu: Of all threads of this process together.
        gpu: Between two events on the current CUDA stream; ``None`` without a GPU.
    """

    wall: float
    cpu: float
    gpu: float | None = None

    @property
    def figure(self) -> float:
        """What is compared: GPU time on a GPU, else CPU time."""
        return self.cpu if self.gpu is None else self.gpu


def timed(function: Callable[[], Any], device: torch.device) -> Times:
    """Run a function and tell what it took, whatever it leaves running included.

    Args:
        function: Takes nothing; what it returns is forgotten.
        device: Where it computes.

    Example:
        >>> times = timed(lambda: sum(range(1000)), torch.device('cpu'))
        >>> times.wall > 0, times.gpu
        (True, None)
    """
    if device.type != 'cuda':
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        return Times(time.perf_counter() - wall, time.process_time() - cpu)
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return Times(*seconds, start.elapsed_time(end) / 1000)
