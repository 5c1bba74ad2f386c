"""The processes of a run on several devices."""

from __future__ import annotations

import gc

import torch.distributed


def leave_processes() -> None:
    """End the connections to the other processes of a run, where there are any.

    To be called when the runner is out of reach. The connections' threads live as long
    as what holds the group, the runner's model; one that asks for the interpreter's
    lock when Python exits makes the process abort, and its launcher then fails a run
    that has done all its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()
