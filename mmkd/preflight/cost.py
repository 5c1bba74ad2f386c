"""What a step takes, with the teacher and without."""

from __future__ import annotations

import copy
import functools
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from ..extended import own_pass_alone
from .layout import duration, table
from .tensor_bytes import held_by, peak_bytes
from .timing import timed


@dataclass
class Cost:
    """Seconds of every measured step, and bytes at the peak.

    Args:
        seconds: ``'stock'`` and ``'distilled'`` -> of every step, taken in turn.
        peak: The same -> bytes.
        measure: How memory was measured.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    measure: str = ''

    def median(self, kind: str) -> float:
        """Median of the steps in seconds."""
        return statistics.median(self.seconds[kind])


KINDS = ('stock', 'distilled')


#: How often `measure_cost` calls `advance` beside the timed steps.
MEMORY_STEPS = len(KINDS)


def measure_cost(
    model: Any,
    batch: Any,
    optim_wrapper: Any,
    steps: int,
    advance: Callable[[], None] = lambda: None,
) -> Cost:
    """Time whole training steps: forward, backward, optimizer; no data loading.

    Rates are 0 meanwhile, so that the weights stay. The stock step is the same
    model with every term switched off, in which the teacher does not run; the
    teacher's weights do not count as its memory.

    Args:
        model: The distilled model.
        batch: A batch of the training data loader; not changed.
        optim_wrapper: Of the run.
        steps: Steps of each kind that are timed; two more of each come first and
            give the memory.
        advance: Called after every step but the first.

    Returns:
        The cost.
    """
    model.train()
    cost = Cost({kind: [] for kind in KINDS})

    def step(kind: str) -> float:
        data = copy.deepcopy(batch)
        with _terms_on(model, kind == 'distilled'):
            device = next(model.parameters()).device
            run = functools.partial(model.train_step, data, optim_wrapper)
            return timed(run, device).wall

    # Else the optimizer would step in one of the two kinds alone.
    optim_wrapper._accumulative_counts = 1
    with no_rates(optim_wrapper):
        for kind in KINDS:
            with _teacher_elsewhere(model, kind == 'stock'):
                step(kind)  # makes the optimizer's state, which then stays
                held = _held(model, optim_wrapper, kind == 'distilled')
                run = functools.partial(step, kind)
                cost.peak[kind], cost.measure = peak_bytes(run, held)
            advance()
        for _ in range(steps):
            for kind in KINDS:
                cost.seconds[kind].append(step(kind))
                advance()
    return cost


@contextmanager
def _terms_on(model: Any, on: bool) -> Iterator[None]:
    """With all that is added to the stock step, or without."""
    distiller = model.distiller
    factors = dict(distiller.factors)
    if not on:
        distiller.factors.update(dict.fromkeys(factors, 0.0))
    try:
        with nullcontext() if on else own_pass_alone(model):
            yield
    finally:
        distiller.factors.update(factors)


@contextmanager
def no_rates(optim_wrapper: Any) -> Iterator[None]:
    """Let the weights stay where they are while a block trains."""
    groups = [g for o in _optimizers(optim_wrapper) for g in o.param_groups]
    rates = [group['lr'] for group in groups]
    for group in groups:
        group['lr'] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(groups, rates):
            group['lr'] = rate


@contextmanager
def _teacher_elsewhere(model: Any, away: bool) -> Iterator[None]:
    """On a GPU, out of its memory for the stock step."""
    devices = {
        n: next(n.parameters(), torch.zeros(())).device for n in _taught_by(model)
    }
    gone = [n for n, device in devices.items() if away and device.type == 'cuda']
    for network in gone:
        network.to('cpu')
    try:
        yield
    finally:
        for network in gone:
            network.to(devices[network])


def _taught_by(model: Any) -> list[nn.Module]:
    """The teachers' networks; none of a cache."""
    members = model.distiller.teacher.members.values()
    return [member.model for member in members if member.model is not None]


def _held(model: Any, optim_wrapper: Any, distilled: bool) -> list[Tensor]:
    tensors = [x for name, x in _students(model)] + optimizer_state(optim_wrapper)
    if distilled:
        tensors += held_by(model.distiller)
        tensors += [x for network in _taught_by(model) for x in held_by(network)]
    return tensors


def _students(model: Any) -> Iterator[tuple[str, Tensor]]:
    for name, child in model.named_children():
        if name != 'distiller':
            for tensor in held_by(child):
                yield name, tensor


def optimizer_state(optim_wrapper: Any) -> list[Tensor]:
    """Moments and the like, of all optimizers."""
    return [
        value
        for optimizer in _optimizers(optim_wrapper)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def _optimizers(optim_wrapper: Any) -> list[Any]:
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None) or {'': optim_wrapper}
    return [wrapper.optimizer for wrapper in wrappers.values()]


def cost_table(cost: Cost, iterations: int | None) -> Table:
    """Time and memory with and without the teacher."""
    numbers = (*KINDS, 'ratio')
    rows = table('', *numbers, numbers=numbers)
    times = [cost.median(kind) for kind in KINDS]
    rows.add_row('step', *map(duration, times), f'{times[1] / times[0]:.2f}')
    if iterations:
        whole = (duration(t * iterations) for t in times)
        rows.add_row(f'{iterations:,} steps', *whole, '')
    peaks = [cost.peak[kind] for kind in KINDS]
    rows.add_row(
        'memory', *(f'{p / 2**20:.4g} MiB' for p in peaks), f'{peaks[1] / peaks[0]:.2f}'
    )
    return rows
