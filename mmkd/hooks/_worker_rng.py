"""Random state of the workers of a data loader, which live in other processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from ..rng import get_rng_state, set_rng_state

#: Room for one pickled state (about 13 kB) behind the 8 bytes of its length.
_ROW = 1 << 16


class WorkerRng:
    """Follows the random states of workers that outlive an epoch.

    Workers that start anew in every epoch are seeded anew, too. Persistent ones
    (MMDetection's default) go on drawing, so that a resumed run would augment
    other than the one that was broken off.

    Args:
        loader: Data loader with ``persistent_workers`` that has not started yet.
        states: One state per worker to start from, as :meth:`states` gave them.

    Example:
        >>> loader = DataLoader(range(2), num_workers=1, persistent_workers=True)
        >>> WorkerRng(loader).states()
        []
    """

    def __init__(self, loader: DataLoader, states: list[dict] | None = None) -> None:
        self._rows = torch.zeros(loader.num_workers, _ROW, dtype=torch.uint8)
        self._rows.share_memory_()
        loader.collate_fn = _Reporting(loader.collate_fn, self._rows)
        if states and len(states) == loader.num_workers:
            loader.worker_init_fn = _Restoring(loader.worker_init_fn, states)
            # Starting workers draws a number, which happened long ago.
            loader.generator = torch.Generator()

    def states(self) -> list[dict]:
        """State of every worker after its last batch; empty if one had none."""
        states = []
        for row in self._rows.numpy():
            length = int.from_bytes(row[:8].tobytes(), 'little')
            if not length:
                return []
            states.append(pickle.loads(row[8 : 8 + length].tobytes()))
        return states


class _Reporting:
    """A collate function that leaves the worker's random state in shared memory."""

    def __init__(self, collate: Callable, rows: torch.Tensor) -> None:
        self._collate = collate
        self._rows = rows

    def __call__(self, samples: Any) -> Any:
        batch = self._collate(samples)
        worker = get_worker_info()
        if worker is not None:
            state = pickle.dumps(get_rng_state())
            data = bytearray(len(state).to_bytes(8, 'little') + state)
            row = self._rows[worker.id]
            row[: len(data)] = torch.frombuffer(data, dtype=torch.uint8)
        return batch


class _Restoring:
    """A worker's initialisation that ends with a given random state."""

    def __init__(self, init: Callable | None, states: list[dict]) -> None:
        self._init = init
        self._states = states

    def __call__(self, worker_id: int) -> None:
        if self._init is not None:
            self._init(worker_id)
        set_rng_state(self._states[worker_id])
