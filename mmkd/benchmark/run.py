"""From what is asked for to files: one measurement, or one for each of some values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.dist import is_main_process
from rich.console import Console

from ..config import teacher_options
from ..experiments.results import append_result
from ..fileio import replacing
from ..preflight.check import standard_output
from ..preflight.progress import Stages
from ..processes import leave_processes
from .measure import WARM_UP, Measured, measure
from .operators import top_operators
from .picture import draw_bars, draw_scaling
from .report import markdown, rich_table
from .setting import Setting


def _sized(setting: Setting, text: str) -> Setting:
    sides = [int(side) for side in text.split('x')]
    if len(sides) > 2:
        raise ValueError(text)
    return dataclasses.replace(setting, size=(sides[0], sides[-1]))


def _taught(setting: Setting, text: str) -> Setting:
    cfg = setting.cfg.copy()
    # The options stay; the weights were another network's.
    options = teacher_options(cfg.model.teacher)
    kept = {k: v for k, v in options.items() if k not in ('config', 'checkpoint')}
    cfg.model = cfg.model.copy()
    cfg.model.teacher = dict(kept, **teacher_options(text))
    return dataclasses.replace(setting, cfg=cfg)


#: What can be varied -> the same setting with another value.
VARIABLES: dict[str, Callable[[Setting, str], Setting]] = {
    'image-size': _sized,
    'batch-size': lambda s, text: dataclasses.replace(s, batch=int(text)),
    'objects': lambda s, text: dataclasses.replace(s, objects=int(text)),
    'teacher': _taught,
}


def varied(setting: Setting, text: str) -> tuple[str, list[str], list[Setting]]:
    """What ``--vary`` asks for.

    Args:
        setting: What all have in common.
        text: ``NAME=VALUE,VALUE,...``

    Returns:
        The name, its values as labels, and a setting for each.

    Raises:
        ValueError: If it cannot be read.
    """
    name, _, values = text.partition('=')
    if name not in VARIABLES or not values:
        raise ValueError(
            f'--vary must be NAME=VALUE,VALUE,... with one of {list(VARIABLES)}, such '
            f'as image-size=160,320x480, but is {text!r}'
        )
    if name == 'teacher' and setting.teacher is None:
        raise ValueError('--vary teacher needs a config with a teacher')
    given = {'image-size': setting.size, 'objects': setting.objects}
    if given.get(name, text) is None:
        raise ValueError(
            f'--vary {name} needs synthetic pictures, for objects those of a detector'
        )
    found = []
    for value in values.split(','):
        try:
            found.append(VARIABLES[name](setting, value))
        except ValueError as error:
            raise ValueError(f'--vary {name}: {value!r} is no value: {error}') from None
    if name == 'teacher':
        return name, [str(one.teacher) for one in found], found
    return name, values.split(','), found


def run(
    setting: Setting,
    names: Sequence[str],
    out: Path,
    vary: str | None = None,
    profile: bool = False,
    command: str = '',
) -> list[Measured]:
    """Measure, print the tables and write the files.

    Args:
        setting: What is measured.
        names: Rows.
        out: Folder of the files.
        vary: See :func:`varied`; the setting alone if not given.
        profile: Whether the operators that take the time are told, too.
        command: Stands in the page.

    Returns:
        What was measured.
    """
    what, labels, settings = varied(setting, vary) if vary else ('', [''], [setting])
    console, stages = (
        standard_output(),
        Stages(Console(stderr=True, quiet=not is_main_process())),
    )
    measurements = []
    for label, one in zip(labels, settings):
        title = f'{what} {label}: measuring' if what else 'measuring'
        rounds = one.steps + WARM_UP
        with stages.stage(title, rounds * len(names)) as advance:
            measured = measure(one, names, advance)
        measurements.append(measured)
        if is_main_process():
            console.print(f'\n{one.title}', highlight=False, soft_wrap=True)
            console.print(rich_table(measured))
            for note in measured.notes:
                console.print(f'note: {note}', highlight=False, soft_wrap=True)
            append_result(out / 'benchmark.jsonl', measured.record())
    if is_main_process():
        _write(out / 'benchmark.md', markdown(measurements, command))
        if what:
            draw_scaling(what, labels, measurements, out / f'scaling_{what}.png')
        else:
            draw_bars(measurements[0], out / 'benchmark.png')
        console.print(f'written: {out}', highlight=False, soft_wrap=True)
    if profile:
        text = top_operators(setting)
        if is_main_process():
            console.print(text, highlight=False, soft_wrap=True)
            _write(out / 'profile.md', text)
    return measurements


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def processes(device: str | None) -> Iterator[str | None]:
    """Join the other processes of ``torchrun``, if it started this one.

    Args:
        device: As asked for.

    Yields:
        The device of this process.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        yield device
        return
    on_gpu = torch.cuda.is_available() and device != 'cpu'
    if on_gpu:
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
        torch.cuda.set_device(device)
    # Not mmengine's: that sets a CUDA device on machines without one.
    options: dict[str, Any] = dict(backend='nccl' if on_gpu else 'gloo')
    torch_dist.init_process_group(**options)
    try:
        yield device or 'cpu'
    finally:
        leave_processes()
