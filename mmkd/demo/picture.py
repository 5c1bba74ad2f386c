"""The demo's picture: what the models see, and how they got there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .judge import MIN_IOU, MIN_SCORE, Judged, judge, most_different
from .runs import ALONE, DISTILLED, TEACHER, DemoRun, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart, too.
_TRUTH, _RIGHT, _WRONG = '#F0E442', '#009E73', '#D55E00'
_STYLES: dict[str, Any] = {_TRUTH: '-', _RIGHT: '-', _WRONG: (0, (2.5, 1.5))}
_MODELS = {ALONE: '#0072B2', DISTILLED: '#B35A8B', TEACHER: '#333333'}
_TITLE = 'Digits on photographs: the same small student, alone and with a teacher'


def draw_demo(
    runs: Mapping[str, DemoRun],
    data_root: Path,
    path: Path,
    rows: int = 4,
) -> Path:
    """Draw ground truth and three models side by side, and AP over training.

    Shown are the validation pictures on which the two students differ most, see
    :func:`mmkd.demo.judge.most_different`.

    Args:
        runs: Name -> run that is done.
        data_root: The digits data set.
        path: PNG file to write.
        rows: Number of pictures.

    Returns:
        ``path``.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    results = {name: run.result for name, run in runs.items() if run.result}
    content = json.loads((data_root / 'annotations' / 'val.json').read_text())
    files = {image['id']: image['file_name'] for image in content['images']}
    truth = _by_image(content['annotations'], files)
    judged = {}
    for name in _MODELS:
        found = _by_image(json.loads(runs[name].predictions.read_text()), files)
        judged[name] = {i: judge(truth[i], found[i]) for i in files}
    figure = pyplot.figure(figsize=(16, 2.75 * rows + 0.9), dpi=100)
    grid = figure.add_gridspec(
        rows,
        6,
        width_ratios=[1, 1, 1, 1, 0.16, 1.6],
        left=0.01,
        right=0.985,
        top=1 - 0.95 / (2.75 * rows + 0.9),
        bottom=0.012,
        wspace=0.03,
        hspace=0.03,
    )
    chosen = most_different(judged[ALONE], judged[DISTILLED], rows)
    for row, image_id in enumerate(chosen):
        picture = pyplot.imread(data_root / 'val' / files[image_id])
        axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
        draw_truth(axes[0], picture, truth[image_id])
        for axis, name in zip(axes[1:], _MODELS, strict=True):
            draw_detections(axis, picture, judged[name][image_id])
        if row == 0:
            _name_columns(axes)
    _draw_margin(figure, grid, rows, results)
    figure.suptitle(_TITLE, fontsize=18, weight='bold', x=0.01, y=0.992, ha='left')
    draft = path.with_name(f'.{path.name}')
    figure.savefig(draft, format='png', facecolor='white')
    pyplot.close(figure)
    return draft.replace(path)


def draw_truth(axis: Axes, picture: np.ndarray, digits: Sequence[Mapping]) -> None:
    """Draw a picture and its digits."""
    _show(axis, picture)
    for digit in digits:
        _draw_box(axis, digit['bbox'], str(digit['category_id'] - 1), _TRUTH)
    _note(axis, f'{len(digits)} digits')


def draw_detections(axis: Axes, picture: np.ndarray, judged: Judged) -> None:
    """Draw a picture and the boxes of a model, the best on top."""
    _show(axis, picture)
    for index in reversed(range(len(judged.boxes))):
        text = f'{judged.labels[index]}  {judged.scores[index]:.2f}'
        colour = _RIGHT if judged.right[index] else _WRONG
        _draw_box(axis, judged.boxes[index], text, colour)
    right, wrong = judged.right.sum(), (~judged.right).sum()
    _note(axis, f'{right} right, {wrong} wrong, {judged.missed} missed')


def draw_curves(axis: Axes, results: Mapping[str, RunResult]) -> None:
    """Draw the students' AP over the iterations, and the teacher's as a line."""
    for name in (ALONE, DISTILLED):
        iterations, values = zip((0, 0.0), *results[name].curve, strict=True)
        axis.plot(iterations, values, 'o-', color=_MODELS[name], linewidth=3)
    for name, result in results.items():
        if name == TEACHER:
            axis.axhline(result.score, color=_MODELS[name], linestyle='--', linewidth=2)
    last = results[ALONE].iterations
    places = _spread([results[name].score for name in _MODELS], 0.05)
    for name, place in zip(_MODELS, places, strict=True):
        axis.text(
            1.03 * last,
            place,
            f'{results[name].score:.3f}',
            color=_MODELS[name],
            fontsize=14,
            weight='bold',
            va='center',
        )
    highest = max(result.score for result in results.values())
    axis.set(xlim=(0, last), ylim=(0, 1.1 * highest + 0.01))
    axis.set_xlabel('iteration of the students', fontsize=12)
    axis.set_title('AP on the validation pictures', fontsize=14)
    axis.tick_params(labelsize=11)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels at about these values, at least ``gap`` apart."""
    order = np.argsort(values)
    places = np.array(values, float)
    gap *= max(places.max(), 0.1)
    for lower, upper in zip(order, order[1:], strict=False):
        places[upper] = max(places[upper], places[lower] + gap)
    return list(places)


def _name_columns(axes: Sequence[Axes]) -> None:
    axes[0].set_title('ground truth', fontsize=15, weight='bold')
    for axis, (name, colour) in zip(axes[1:], _MODELS.items(), strict=True):
        axis.set_title(name, fontsize=15, weight='bold', color=colour)


def _draw_margin(
    figure: Figure, grid: Any, rows: int, results: Mapping[str, RunResult]
) -> None:
    """Fill the right-hand column: curves above, the key below."""
    from matplotlib.lines import Line2D

    split = grid[:, 5].subgridspec(20, 1)
    curves = figure.add_subplot(split[:12, 0])
    box = curves.get_position()
    curves.set_position((box.x0, box.y0, 0.84 * box.width, box.height))
    draw_curves(curves, results)
    key = figure.add_subplot(split[14:, 0])
    key.axis('off')
    lines = [
        Line2D(
            [], [], color=colour, linewidth=4, label=f'{name}: {_size(results[name])}'
        )
        for name, colour in _MODELS.items()
    ]
    texts = ('a digit', f'right: its class, IoU ≥ {MIN_IOU}', 'wrong')
    lines += [
        Line2D([], [], color=colour, linewidth=4, linestyle=style, label=text)
        for (colour, style), text in zip(_STYLES.items(), texts, strict=True)
    ]
    key.legend(
        handles=lines,
        loc='upper left',
        fontsize=12.5,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
    )
    key.text(
        0,
        0,
        f'The best box of each place, from a score of {MIN_SCORE}.\n'
        'Chosen are the pictures on which the two\n'
        'students differ most (F1), whichever is better.',
        fontsize=11.5,
        va='bottom',
    )


def _size(result: RunResult) -> str:
    return f'{result.parameters / 1e6:.2f} M parameters'


def _show(axis: Axes, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    # The photographs are dim, for the ink's sake; paper and screens want it lighter.
    axis.imshow(picture**0.75, interpolation='bicubic', extent=(0, width, height, 0))
    axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def _draw_box(axis: Axes, box: Sequence[float], text: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = box
    axis.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            fill=False,
            edgecolor=colour,
            linewidth=2.5,
            linestyle=_STYLES[colour],
        )
    )
    # The label is above its box, and inside it where it would leave the picture.
    is_high = y < 0.09 * axis.get_ylim()[0]
    is_right = x > 0.75 * axis.get_xlim()[1]
    axis.text(
        x + width if is_right else x,
        y,
        text,
        fontsize=10,
        weight='bold',
        color='black' if colour == _TRUTH else 'white',
        ha='right' if is_right else 'left',
        va='top' if is_high else 'bottom',
        bbox=dict(facecolor=colour, pad=1.2, linewidth=0),
    )


def _note(axis: Axes, text: str) -> None:
    axis.text(
        0.99,
        0.015,
        text,
        transform=axis.transAxes,
        ha='right',
        va='bottom',
        fontsize=10.5,
        color='white',
        bbox=dict(facecolor='black', alpha=0.7, pad=2, linewidth=0),
    )


def _by_image(entries: Sequence[Mapping], ids: Mapping[int, Any]) -> dict[int, list]:
    found: dict[int, list] = {image_id: [] for image_id in ids}
    for entry in entries:
        found[entry['image_id']].append(entry)
    return found
