"""The table of a measurement, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..preflight.layout import table
from .measure import Measured, quartiles
from .rows import FLOOR, STUDENT

_MEBI = 2**20


def columns(measured: Measured) -> list[str]:
    """Headings of the table."""
    unit = 'GPU' if measured.setting.device.type == 'cuda' else 'CPU'
    return [
        'step',
        f'{unit} time',
        'quartiles',
        'wall time',
        'peak memory',
        'to the student',
        'to the floor',
    ]


def cells(measured: Measured) -> list[list[str]]:
    """The rows of the table, as many cells in each as there are :func:`columns`.

    Times are medians, in milliseconds.
    """
    found = []
    for row, times in measured.times.items():
        lower, median, upper = measured.quartiles(row)
        wall = quartiles([t.wall for t in times])[1]
        peak = measured.peaks.get(row)
        ratios = [measured.ratio(row, to) for to in (STUDENT, FLOOR)]
        found.append(
            [
                row,
                f'{median * 1e3:.1f} ms',
                f'{lower * 1e3:.1f}-{upper * 1e3:.1f}',
                f'{wall * 1e3:.1f} ms',
                '' if peak is None else f'{peak / _MEBI:.0f} MiB',
                *('' if r is None else f'{r:.3f}' for r in ratios),
            ]
        )
    return found


def rich_table(measured: Measured) -> Table:
    """The table for a terminal."""
    names = columns(measured)
    made = table(*names, numbers=tuple(names[1:]))
    for line in cells(measured):
        made.add_row(*line)
    return made


def markdown(measurements: Sequence[Measured], command: str) -> str:
    """A page with a table for each measurement.

    Args:
        measurements: In the order of the page.
        command: What made them.
    """
    lines = ['# What a training step costs', '', f'`{command}`', '']
    for measured in measurements:
        names = columns(measured)
        ranks = f', {measured.ranks} processes' if measured.ranks > 1 else ''
        lines += [f'{measured.setting.title}{ranks}', '']
        lines += ['| ' + ' | '.join(names) + ' |']
        lines += ['|---' + '|---:' * (len(names) - 1) + '|']
        lines += ['| ' + ' | '.join(line) + ' |' for line in cells(measured)]
        lines += ['', *(f'- {note}' for note in measured.notes)]
        lines += [''] if measured.notes else []
    lines += [
        'Rows were taken in turn, one step of each in every round. Times are medians '
        'over the rounds; a ratio is the median of the ratios within a round.'
    ]
    return '\n'.join(lines) + '\n'
