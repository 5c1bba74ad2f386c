"""Curves of what training runs logged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..fileio import replacing
from .results import scalar_logs

#: Logged, but about the machine or the schedule.
_HOUSEKEEPING = frozenset(
    ('data_time', 'epoch', 'iter', 'lr', 'memory', 'step', 'time', 'base_lr')
)
#: Okabe and Ito's colours, which people with colour blindness tell apart.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#333333')
_STYLES = ('-', '--', ':')


def curves_of(work_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """What the training in a work directory logged, before and after it resumed.

    Args:
        work_dir: As given to ``tools/train.py --work-dir``. A run that is going on
            may be looked at.

    Returns:
        Key -> pairs of step and value, in order: iterations, or for evaluations
        what the run calls a step (an epoch, in epoch-based training). What a
        resumed or repeated run went through again is shown as it went last.

    Raises:
        FileNotFoundError: If nothing was logged there.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for log in scalar_logs(work_dir):
        found: dict[str, list[tuple[int, float]]] = {}
        for line in _lines(log):
            step = line.get('iter', line.get('step', 0))
            for key, value in line.items():
                is_number = isinstance(value, (int, float)) and math.isfinite(value)
                if key not in _HOUSEKEEPING and is_number:
                    found.setdefault(key, []).append((step, value))
        for key, points in found.items():
            kept = [p for p in curves.get(key, []) if p[0] < points[0][0]]
            curves[key] = kept + points
    if not curves:
        raise FileNotFoundError(
            f'{work_dir} holds no log (*/vis_data/scalars.json) with a line in it'
        )
    return curves


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        with suppress(json.JSONDecodeError):  # the last one may be half written
            yield json.loads(line)


def draw_curves(
    work_dirs: Sequence[Path], path: Path, keys: Sequence[str] | None = None
) -> Path:
    """Draw a panel per logged value with a line per run.

    Args:
        work_dirs: Work directories of the runs, named by their last part.
        path: Picture to write, whole or not at all; its suffix is the format.
        keys: Logged values; all of them if not given.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If a work directory has no log.
        ValueError: If a key was logged by no run.
    """
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    runs = {work_dir: curves_of(work_dir) for work_dir in work_dirs}
    known = list(dict.fromkeys(key for curves in runs.values() for key in curves))
    unknown = [key for key in keys or () if key not in known]
    if unknown:
        raise ValueError(f'keys must be among {known} but are {unknown}')
    shown = list(keys or known)
    columns = min(3, len(shown))
    figure, grid = plt.subplots(
        math.ceil(len(shown) / columns),
        columns,
        figsize=(4.4 * columns, 2.9 * math.ceil(len(shown) / columns) + 0.6),
        squeeze=False,
        layout='constrained',
    )
    for axes in grid.flat[len(shown) :]:
        axes.axis('off')
    for axes, key in zip(grid.flat, shown):
        _panel(axes, key, {d: c[key] for d, c in runs.items() if key in c}, runs)
    if len(runs) > 1:
        labels = {
            t: h for a in grid.flat for h, t in zip(*a.get_legend_handles_labels())
        }
        figure.legend(labels.values(), labels.keys(), loc='outside upper center')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:] or 'png')
    plt.close(figure)
    return path


def _panel(axes: Any, key: str, lines: dict, runs: dict) -> None:
    """One value over training; a run has the same colour in every panel."""
    order = list(runs)
    for work_dir, points in lines.items():
        place = order.index(work_dir)
        axes.plot(
            *zip(*points),
            label=work_dir.name,
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_STYLES[place // len(_COLOURS) % len(_STYLES)],
            marker='o' if len(points) < 20 else None,
            markersize=3,
        )
    axes.set_title(key, fontsize=10)
    axes.set_xlabel('step', fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
