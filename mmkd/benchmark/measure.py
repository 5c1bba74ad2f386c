"""Measures every row in turn, so that whatever disturbs the machine hits all alike."""

from __future__ import annotations

import copy
import functools
import gc
import random
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from ..cli import sentence
from ..config import model_scope
from ..preflight.cost import no_rates
from ..preflight.tensor_bytes import bytes_of, peak_bytes
from ..preflight.timing import Times, timed
from .inputs import batches_of
from .networks import Networks
from .rows import Row, build_row
from .setting import SEED, Setting

#: Steps of every row ahead of the timed ones, at least: compilers and caches.
WARM_UP = 2


@dataclass
class Measured:
    """What was measured.

    Args:
        setting: Of what.
        times: Row -> what each of its steps took; all rows have as many.
        peaks: Row -> bytes at the peak of a step.
        notes: Why rows are not there, and what else is to be told.
        ranks: Number of processes.
    """

    setting: Setting
    times: dict[str, list[Times]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ranks: int = 1

    def figures(self, row: str) -> list[float]:
        """Seconds of every step of a row: GPU time on a GPU, else CPU time."""
        return [times.figure for times in self.times[row]]

    def quartiles(self, row: str) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the figures."""
        return quartiles(self.figures(row))

    def ratio(self, row: str, to: str) -> float | None:
        """Cost of a row over that of another one: the median over the rounds.

        Steps of one round lie side by side, so that noise that lasts drops out.

        Returns:
            ``None`` if one of them was not measured.
        """
        if not {row, to} <= self.times.keys():
            return None
        pairs = zip(self.figures(row), self.figures(to))
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def record(self) -> dict[str, Any]:
        """Everything, ready for json."""
        rows = {
            row: dict(
                seconds=[
                    {k: round(v, 6) for k, v in asdict(t).items() if v is not None}
                    for t in times
                ],
                peak_bytes=self.peaks.get(row),
            )
            for row, times in self.times.items()
        }
        return dict(
            self.setting.record(), ranks=self.ranks, rows=rows, notes=self.notes
        )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile.

    Example:
        >>> quartiles([4.0, 1, 2, 3, 5])
        (2.0, 3.0, 4.0)
    """
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return lower, median, upper


def measure(
    setting: Setting,
    names: Sequence[str],
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Measure training steps of some rows.

    Learning rates are 0, so that weights stay. Every step starts from the same
    random state. Under ``torchrun`` the models are in DDP and of every step the
    slowest rank counts.

    Args:
        setting: What is measured.
        names: Rows.
        advance: Called after every row of every round, timed or not.

    Returns:
        What was measured; a row that fails is told in the notes.
    """
    done = Measured(setting)
    scope = model_scope(setting.cfg)
    with (
        tempfile.TemporaryDirectory(prefix='mmkd-benchmark-') as folder,
        DefaultScope.overwrite_default_scope(scope),
        warnings.catch_warnings(),
        ExitStack() as stack,
    ):
        warnings.simplefilter('ignore')  # of the host libraries, as in training
        rows = _Rows(Networks(setting, Path(folder)), done, stack)
        for name in names:
            rows.build(name)
        with _little_garbage():
            for index in range(max(WARM_UP, len(rows.batches))):
                rows.round(names, index, advance, is_timed=False)
            rows.weigh()
            for index in range(setting.steps):
                rows.round(names, index, advance)
    _slowest_rank(done)
    return done


class _Rows:
    """The rows that work so far."""

    def __init__(self, networks: Networks, done: Measured, stack: ExitStack) -> None:
        self.done = done
        self.networks = networks
        self.device = networks.setting.device
        self.rows: dict[str, Row] = {}
        self.stack = stack
        self.batches = batches_of(networks.setting)

    def build(self, name: str) -> None:
        with self._told(name):
            row = build_row(name, self.networks)
            self.stack.enter_context(no_rates(row.trainee.optim_wrapper))
            self.rows[name] = row
            self.done.times[name] = []

    def round(
        self,
        names: Sequence[str],
        index: int,
        advance: Callable[[], None],
        is_timed: bool = True,
    ) -> None:
        """One step of every row, each time in another order."""
        order = random.Random(index).sample(names, len(names))
        for name in order:
            if name in self.rows:
                with self._told(name):
                    times = timed(self._step(name, index), self.device)
                    if is_timed:
                        self.done.times[name].append(times)
            advance()

    def weigh(self) -> None:
        """Measure the memory of a step of every row."""
        for name, row in self.rows.items():
            if not row.memory:
                continue
            # Compiled code may refuse to be watched.
            with suppress(Exception):
                # A teacher may keep off the device what nothing reads.
                held = [
                    x for x in row.trainee.held() if x.device.type == self.device.type
                ]
                foreign = 0
                if self.device.type == 'cuda':  # weights of the other rows
                    foreign = torch.cuda.memory_allocated(self.device) - bytes_of(held)
                peak, _ = peak_bytes(self._step(name, 0), held)
                self.done.peaks[name] = peak - foreign

    def _step(self, name: str, index: int) -> Callable[[], Any]:
        """A step, with all that it needs made ready."""
        row, number = self.rows[name], index % len(self.batches)
        preprocessor = row.trainee.model.data_preprocessor
        raw = preprocessor.cast_data(copy.deepcopy(self.batches[number]))
        hub = MessageHub.get_current_instance()
        for key in ('iter', 'epoch'):  # some losses warm up
            hub.update_info(key, 0)
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        gc.collect()
        return functools.partial(row.run, raw, number)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Leave out a row that fails, and say why."""
        try:
            yield
        except Exception as error:
            self.rows.pop(name, None)
            self.done.times.pop(name, None)
            self.done.peaks.pop(name, None)
            self.done.notes.append(f'{name}: {type(error).__name__}: {sentence(error)}')


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Collect no garbage in a step, and before it only what is new."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _slowest_rank(done: Measured) -> None:
    everyones = all_gather_object(done.times)
    done.ranks = len(everyones)
    if done.ranks == 1:
        return
    for row in done.times:
        steps = zip(*(times[row] for times in everyones))
        done.times[row] = [max(step, key=lambda times: times.figure) for step in steps]
