"""Line charts and bars as inline SVG, whose colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 36
#: More would not be seen and fill the file.
MAX_POINTS = 240
#: Chance of an edge that would not be seen.
_NOTHING = 0.004


class Drawing(str):
    """Markup of ours that a template takes as it is; other texts are escaped."""

    def __html__(self) -> str:
        return str(self)


def line_chart(
    identity: str, title: str, lines: Mapping[int, tuple[str, Points]], unit: str
) -> str:
    """A chart with a line per run.

    Args:
        identity: Unique in the page.
        title: What is drawn.
        lines: Place of a run, which decides on colour and dashes -> its name and
            points, in order of the steps.
        unit: What the steps count.

    Returns:
        An ``<svg>`` with title and description for those who do not see it.
    """
    xs = [x for _, points in lines.values() for x, _ in points]
    ys = [y for _, points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 5), ticks(min(ys), max(ys), 5)
    x_range = (min(xs), max(xs))
    x_ticks = [x for x in x_ticks if x_range[0] <= x <= x_range[1]] or [x_range[0]]
    y_range = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))

    def at_x(value: float) -> float:
        return _LEFT + _share(value, *x_range) * (WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - _BOTTOM - _share(value, *y_range) * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for value in y_ticks:
        y = f'{at_y(value):.1f}'
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">'
            f'{number(value)}</text>'
        )
    for value in x_ticks:
        x = f'{at_x(value):.1f}'
        parts.append(
            f'<text x="{x}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f'{number(value)}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">'
        f'{escape(unit)}</text>'
    )
    for place, (_, points) in lines.items():
        shown = thinned(points, MAX_POINTS)
        path = ' '.join(f'{at_x(x):.1f},{at_y(y):.1f}' for x, y in shown)
        parts.append(f'<polyline class="line run{place % 8}" points="{path}"/>')
        if len(shown) < 20:
            parts += [
                f'<circle class="dot run{place % 8}" cx="{at_x(x):.1f}" '
                f'cy="{at_y(y):.1f}" r="3"/>'
                for x, y in shown
            ]
    return _svg(identity, title, described(lines, unit), WIDTH, HEIGHT, parts)


def described(lines: Mapping[int, tuple[str, Points]], unit: str) -> str:
    """The course of every line in words.

    Example:
        >>> described({0: ('ld', [(1, 2.0), (5, 0.5)])}, 'epoch')
        'ld: from 2 at epoch 1 to 0.5 at epoch 5, between 0.5 and 2.'
    """
    sentences = []
    for name, points in lines.values():
        (first, start), (last, end) = points[0], points[-1]
        values = [y for _, y in points]
        sentences.append(
            f'{name}: from {number(start)} at {unit} {number(first)} to '
            f'{number(end)} at {unit} {number(last)}, between {number(min(values))} '
            f'and {number(max(values))}.'
        )
    return ' '.join(sentences)


def gap_bar(student: float, distilled: float, teacher: float, top: float) -> str:
    """Where three networks are between 0 and a common end; the table says it, too.

    Args:
        student: Value of the student alone.
        distilled: Of the distilled one.
        teacher: Of the teacher.
        top: Value at the right end.
    """
    x = [8 + 144 * min(max(v / top, 0), 1) for v in (student, distilled, teacher)]
    low, high = min(x), max(x)
    return (
        '<svg class="bar" viewBox="0 0 160 20" width="160" height="20" '
        'aria-hidden="true" focusable="false">'
        '<line class="grid" x1="8" x2="152" y1="10" y2="10"/>'
        f'<line class="gap" x1="{low:.1f}" x2="{high:.1f}" y1="10" y2="10"/>'
        f'<line class="closed" x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="10" y2="10"/>'
        f'<circle class="student" cx="{x[0]:.1f}" cy="10" r="4"/>'
        f'<rect class="teacher" x="{x[2] - 1.5:.1f}" y="3" width="3" height="14"/>'
        f'<path class="distilled" d="M{x[1]:.1f} 4l6 6-6 6-6-6z"/></svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that cover a range.

    Example:
        >>> ticks(0.13, 0.92, 5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        >>> ticks(3, 3, 5)
        [3]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as short as it can be read.

    Example:
        >>> number(0.25), number(1500.0), number(0.000012), number(-0.0)
        ('0.25', '1500', '1.2e-05', '0')
    """
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f'{value:.3g}'


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """Points spread evenly over a list, first and last among them.

    Example:
        >>> thinned([(i, i) for i in range(9)], 3)
        [(0, 0), (4, 4), (8, 8)]
    """
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _svg(
    identity: str,
    title: str,
    text: str,
    width: int,
    height: int,
    parts: Sequence[str],
) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{identity}-t {identity}-d">'
        f'<title id="{identity}-t">{escape(title)}</title>'
        f'<desc id="{identity}-d">{escape(text)}</desc>{"".join(parts)}</svg>'
    )


def edge_chart(
    identity: str,
    title: str,
    text: str,
    pixels: Mapping[str, Sequence[float]],
    chances: Mapping[str, Sequence[float]],
    truth: float,
) -> str:
    """Distributions of one box edge over its distance from the prior's centre.

    Args:
        identity: Unique in the page.
        title: Which edge of which object.
        text: The same in words.
        pixels: ``'student'``, ``'distilled'`` or ``'teacher'`` -> its bins.
        chances: Of the same -> probability of each bin.
        truth: Distance of the true edge.
    """
    width, height, left, bottom = 260, 150, 34, 30
    seen = [
        following  # so that a line is seen to fall
        for who, row in chances.items()
        for following, chance in zip([*pixels[who][1:], pixels[who][-1]], row)
        if chance > _NOTHING
    ]
    right = max(*seen, truth * 1.1, 1.0)
    top = max(max(values) for values in chances.values()) * 1.08 or 1.0

    def at(x: float, y: float) -> str:
        down = height - bottom - y / top * (height - bottom - 8)
        return f'{left + x / right * (width - left - 8):.1f},{down:.1f}'

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{height - bottom}" '
        f'y2="{height - bottom}"/>'
    ]
    for value in ticks(0, right, 4):
        if value <= right:
            x = at(value, 0).partition(',')[0]
            parts.append(
                f'<text x="{x}" y="{height - 14}" text-anchor="middle">'
                f'{number(value)}</text>'
            )
    for value in (0.0, top / 1.08):
        y = at(0, value).partition(',')[2]
        parts.append(
            f'<text x="{left - 4}" y="{y}" dy="4" text-anchor="end">{value:.2f}</text>'
        )
    parts.append(
        f'<text x="{width - 8}" y="{height - 2}" text-anchor="end">pixels</text>'
    )
    x, y0 = at(truth, 0).split(',')
    parts.append(f'<line class="truth" x1="{x}" x2="{x}" y1="8" y2="{y0}"/>')
    for who in chances:
        points = [(x, y) for x, y in zip(pixels[who], chances[who]) if x <= right]
        path = ' '.join(at(x, y) for x, y in points)
        parts.append(f'<polyline class="line {who}" points="{path}"/>')
    return _svg(identity, title, text, width, height, parts)
