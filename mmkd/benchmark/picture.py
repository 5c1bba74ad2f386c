"""Pictures of measurements: bars of the rows, and their cost over what was varied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..fileio import replacing
from .measure import Measured
from .rows import FLOOR, STUDENT

#: Of Okabe and Ito, which people with colour blindness tell apart.
_OURS, _OTHERS, _STUDENT = '#0072B2', '#999999', '#333333'
_LINES = ('#333333', '#999999', '#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00')


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    return pyplot


def _unit(measured: Measured) -> str:
    return 'GPU' if measured.setting.device.type == 'cuda' else 'CPU'


def draw_bars(measured: Measured, path: Path) -> Path:
    """Draw a bar per row with its quartiles.

    Args:
        measured: What is drawn.
        path: Picture to write.

    Returns:
        ``path``.
    """
    plt = _pyplot()
    rows = list(measured.times)
    figure, axes = plt.subplots(
        figsize=(8.5, 1.5 + 0.42 * len(rows)), layout='constrained'
    )
    for place, row in enumerate(rows):
        lower, median, upper = (1e3 * x for x in measured.quartiles(row))
        colour = _OURS if row.startswith('mmkd') else _OTHERS
        axes.barh(
            place,
            median,
            color=_STUDENT if row == STUDENT else colour,
            xerr=[[median - lower], [upper - median]],
            error_kw=dict(ecolor='#D55E00', capsize=3, lw=1.2),
            height=0.68,
        )
        ratio = measured.ratio(row, STUDENT)
        text = f'{median:.0f} ms' if median >= 100 else f'{median:.1f} ms'
        text += '' if ratio is None or row == STUDENT else f'   x {ratio:.3f}'
        axes.annotate(
            text,
            (upper, place),
            (6, 0),
            textcoords='offset points',
            va='center',
            bbox=dict(facecolor='white', edgecolor='none', pad=1.5),
        )
    if FLOOR in measured.times:
        floor = measured.quartiles(FLOOR)[1] * 1e3
        axes.axvline(floor, color='#D55E00', ls=':', lw=1.2, zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28e3 * max(measured.quartiles(row)[2] for row in rows))
    axes.set_xlabel(
        f'{_unit(measured)} time of a training step in ms: median and quartiles; '
        'x: to the student alone'
    )
    axes.spines[['top', 'right']].set_visible(False)
    what, _, where = measured.setting.title.partition('; ')
    axes.set_title(f'{what}\n{where}', fontsize=8, loc='left')
    return _saved(figure, path)


def draw_scaling(
    what: str, labels: Sequence[str], measurements: Sequence[Measured], path: Path
) -> Path:
    """Draw the cost of every row over what was varied.

    Args:
        what: Name of that.
        labels: Its values.
        measurements: One for each of them.
        path: Picture to write.

    Returns:
        ``path``.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    rows = list(dict.fromkeys(row for m in measurements for row in m.times))
    for place, row in enumerate(rows):
        seen = [i for i, m in enumerate(measurements) if row in m.times]
        style = dict(color=_LINES[place % len(_LINES)], marker='o', markersize=4)
        style.update(ls='-' if row.startswith('mmkd') else '--')
        spread = [[1e3 * x for x in measurements[i].quartiles(row)] for i in seen]
        left.plot(seen, [median for _, median, _ in spread], label=row, **style)
        left.fill_between(
            seen,
            [lower for lower, _, _ in spread],
            [upper for _, _, upper in spread],
            color=style['color'],
            alpha=0.15,
            lw=0,
        )
        ratios = [measurements[i].ratio(row, STUDENT) for i in seen]
        right.plot(seen, ratios, **style)
    unit = _unit(measurements[0])
    left.set_title(f'{unit} time of a training step, ms', fontsize=10, loc='left')
    right.set_title('relative to the student alone', fontsize=10, loc='left')
    left.set_ylim(0)
    for axes in (left, right):
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlabel(what)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside right center', fontsize=8, frameon=False)
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format=path.suffix[1:] or 'png')
    _pyplot().close(figure)
    return path
