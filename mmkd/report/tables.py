"""The numbers of a report as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..experiments.results import mean_std
from .outcome import Outcome, share_closed
from .run import Run
from .svg import Drawing, gap_bar, number, thinned


@dataclass
class Table:
    """A table of a page.

    Args:
        caption: What it shows.
        header: Names of the columns; the first one is that of the rows.
        rows: Cells; the first one of a row names it.
        note: A sentence below it.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    note: str = ''


def final_table(runs: Sequence[Run], base: int, teacher: Outcome | None) -> Table:
    """Every metric of the last evaluations, with differences to the baseline.

    Args:
        runs: The runs.
        base: Place of the baseline among them.
        teacher: What the teacher's evaluation gave, if there was one.
    """
    others = [run for place, run in enumerate(runs) if place != base]
    header = ['metric', f'{runs[base].name} (baseline)']
    for run in others:
        header += [run.name, 'difference']
        header += ['gap closed'] if teacher else []
    header += ['teacher'] if teacher else []
    keys = list(dict.fromkeys(key for run in runs for key in run.final))
    rows = []
    for key in keys:
        alone = runs[base].final.get(key)
        taught = teacher.metrics.get(key) if teacher else None
        row = [key, shown(alone)]
        for run in others:
            value = run.final.get(key)
            row += [shown(value), difference(alone, value)]
            if teacher:
                row.append(percent(share_closed(alone, value, taught)))
        rows.append(row + ([shown(taught)] if teacher else []))
    steps = ', '.join(
        f'{run.name} after {run.step_unit} {run.final_step}'
        for run in runs
        if run.final_step is not None
    )
    caption = 'Metrics of the last evaluation, as logged'
    return Table(caption, header, rows, f'Evaluated: {steps}.' if steps else '')


def seeds_table(runs: Sequence[Run]) -> Table | None:
    """Means over runs of one config with other seeds.

    Args:
        runs: The runs, the baseline first.

    Returns:
        Nothing if no config was run twice.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    first, *others = groups.values()
    if all(len(group) < 2 for group in groups.values()):
        return None
    header = ['metric', f'{_called(first)} (baseline)']
    for group in others:
        header += [_called(group), 'difference, by seed']
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.final):
        alone = _by_seed(first, key)
        row = [key, _spread(list(alone.values()))]
        for group in others:
            values = _by_seed(group, key)
            pairs = [v - alone[seed] for seed, v in values.items() if seed in alone]
            row += [_spread(list(values.values())), _spread(pairs, '+')]
        rows.append(row)
    note = (
        'Mean ± standard deviation (n − 1). Differences are between runs of the same '
        'seed; runs without a seed count in order.'
    )
    return Table('Means over seeds', header, rows, note)


def _called(group: Sequence[Run]) -> str:
    return group[0].name + (f' and {len(group) - 1} more' if len(group) > 1 else '')


def _by_seed(group: Sequence[Run], key: str) -> dict[Any, float]:
    """Seed, or place where there is none, -> value of the last evaluation."""
    return {
        place if run.seed is None else f'seed {run.seed}': run.final[key]
        for place, run in enumerate(group)
        if key in run.final
    }


def _spread(values: Sequence[float], sign: str = '') -> str:
    if not values:
        return '–'
    digits = 3 if max(map(abs, values)) <= 1 else 2
    return mean_std(values, digits, sign).replace('-', '−')


def gap_table(
    caption: str,
    kind: str,
    values: Mapping[str, Mapping[str, float | None]],
    base: str | None,
    teacher: str | None,
) -> Table:
    """Networks by class or by size: value, difference, share of the gap, a bar.

    Args:
        caption: What the table shows.
        kind: What its rows are.
        values: Name of a network -> row -> value.
        base: Name of the baseline among them, if it was evaluated.
        teacher: Name of the teacher among them, if it was evaluated.
    """
    others = [name for name in values if name not in (base, teacher)]
    names = list(dict.fromkeys(row for rows in values.values() for row in rows))
    bars = base is not None and teacher is not None and len(others) == 1
    header = [kind] + ([f'{base} (baseline)'] if base else [])
    for name in others:
        header += [name] + (['difference'] if base else [])
        header += ['gap closed'] if base and teacher else []
    header += ([teacher] if teacher else []) + (['picture'] if bars else [])
    top = max(
        (v for rows in values.values() for v in rows.values() if v is not None),
        default=0,
    )
    table = Table(caption, header, [])
    for row in names:
        alone = values[base].get(row) if base else None
        taught = values[teacher].get(row) if teacher else None
        cells = [row] + ([shown(alone)] if base else [])
        for name in others:
            value = values[name].get(row)
            cells += [shown(value)] + ([difference(alone, value)] if base else [])
            if base and teacher:
                cells.append(percent(share_closed(alone, value, taught)))
        cells += [shown(taught)] if teacher else []
        if bars:
            cells.append(_bar(alone, values[others[0]].get(row), taught, top))
        table.rows.append(cells)
    return table


def curve_table(key: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> Table:
    """Some points of the curves of one key, a column per run.

    Args:
        key: What was logged.
        lines: Name of a run -> its points.
    """
    steps = sorted({step for points in lines.values() for step, _ in points})
    steps = [round(x) for x, _ in thinned([(s, 0.0) for s in steps], 12)]
    by_step = {name: dict(points) for name, points in lines.items()}
    rows = [
        [str(step), *(shown(by_step[name].get(step)) for name in lines)]
        for step in steps
    ]
    return Table(f'{key}, at most 12 steps of it', ['step', *lines], rows)


def shown(value: float | None) -> str:
    """A value, or a dash where there is none.

    Example:
        >>> shown(0.34567), shown(34.567), shown(None)
        ('0.346', '34.57', '–')
    """
    if value is None:
        return '–'
    if abs(value) < 1:
        return f'{value:.3f}' if abs(value) >= 0.001 or value == 0 else number(value)
    return f'{value:.2f}'


def difference(base: float | None, value: float | None) -> str:
    """A difference with its sign.

    Example:
        >>> difference(0.3, 0.346), difference(20.0, 18.5), difference(None, 1.0)
        ('+0.046', '−1.50', '–')
    """
    if base is None or value is None:
        return '–'
    digits = 3 if max(abs(base), abs(value)) <= 1 else 2
    return f'{value - base:+.{digits}f}'.replace('-', '−')


def percent(share: float | None) -> str:
    """A share in percent.

    Example:
        >>> percent(0.425), percent(-0.1), percent(-0.001), percent(None)
        ('42 %', '−10 %', '0 %', '–')
    """
    if share is None:
        return '–'
    return f'{round(share * 100)} %'.replace('-', '−')  # round: no minus zero


def _bar(student: Any, distilled: Any, teacher: Any, top: float) -> str:
    if None in (student, distilled, teacher) or top <= 0:
        return ''
    return Drawing(gap_bar(student, distilled, teacher, top))
