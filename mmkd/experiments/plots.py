"""A picture of a plan's results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..fileio import replacing
from .plan import TEACHER, Plan

Result = Mapping[str, Any]
_ALONE, _TAUGHT, _TEACHER = '#333333', '#0072B2', '#D55E00'


def draw_results(plan: Plan, results: Sequence[Result], path: Path) -> bool:
    """Draw a panel per stage: a line per row, a dot per seed, a bar at their mean.

    Dashed lines are the means of the students alone and of the teacher.

    Args:
        plan: The plan.
        results: Its results so far.
        path: Picture to write, whole or not at all; its suffix is the format.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    panels = {stage: _values(plan, stage, results) for stage in plan.stages}
    panels = {stage: rows for stage, rows in panels.items() if rows}
    if not panels:
        return False
    height = 0.9 + 0.27 * max(map(len, panels.values()))
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(5.6 * len(panels), height),
        squeeze=False,
        layout='constrained',
    )
    for axes, (stage, rows) in zip(grid.flat, panels.items()):
        _panel(axes, plan, rows)
        axes.set_title(stage, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:])
    plt.close(figure)
    return True


def _values(plan: Plan, stage: str, results: Sequence[Result]) -> dict[str, list]:
    """Row -> the main metric of its seeds, of those that were run."""
    main = plan.task.main
    found: dict[str, list] = {}
    for row in [*plan.rows, TEACHER]:
        for r in results:
            if (r['stage'], r['row']) == (stage, row) and 'failure' not in r:
                found.setdefault(row, []).append(r[main])
    return found


def _panel(axes: Any, plan: Plan, rows: Mapping[str, list]) -> None:
    for place, (row, values) in enumerate(rows.items()):
        is_alone = row != TEACHER and row == plan.baseline_of(row)
        colour = _TEACHER if row == TEACHER else _ALONE if is_alone else _TAUGHT
        mean = statistics.fmean(values)
        axes.plot(values, [place] * len(values), 'o', color=colour, ms=4, alpha=0.6)
        axes.plot([mean] * 2, [place - 0.3, place + 0.3], color=colour, lw=2)
        if is_alone or row == TEACHER:
            axes.axvline(mean, color=colour, lw=0.8, ls='--', zorder=0)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(plan.task.main, fontsize=8)
    axes.tick_params(axis='x', labelsize=8)
    axes.grid(axis='x', alpha=0.3)
