"""What compression gave: figures of every network, and their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from rich import box
from rich.table import Table
from torch import Tensor

from ..compat.checkpoint import load_file
from ..config import load_config, student_config
from ..export import export_student
from ..fileio import replacing
from ..teacher_loading import load_contents_strictly
from .chain import Trained
from .cost import Cost, cost_of
from .searching import Found
from .sub_networks import Validation
from .teacher import build_gan_teacher
from .translator import Translator

_REPEATS = 20
_PICTURES = 6


@dataclass(frozen=True)
class Row:
    """Figures of a generator.

    Args:
        name: Of it.
        metrics: By name.
        cost: Of a picture.
    """

    name: str
    metrics: Mapping[str, float]
    cost: Cost


def write_report(
    supernet: Trained, found: Found, final: Trained, folder: Path
) -> list[Row]:
    """Compare teacher, found sub-network and fine-tuned one, and write all of it.

    Args:
        supernet: With a config that names the teacher's weights.
        found: What the search gave.
        final: The sub-network after fine-tuning, or as it was found.
        folder: Gets ``report.json``, ``report.md``, ``report.png``, and
            ``generator.pth`` with ``generator.py``, the compressed generator alone.

    Returns:
        The rows.
    """
    cfg = Config.fromfile(supernet.config)
    teacher: Any = build_gan_teacher(cfg.model.teacher)[0].model
    models = {'teacher': Translator(teacher)}
    widths = '-'.join(map(str, found.best))
    models[f'found, {widths}'] = translator_of(Trained(found.config, found.weights))
    if final.checkpoint != found.weights:
        models['fine-tuned'] = translator_of(final)
    validation = Validation(cfg)
    rows = []
    for name, model in models.items():
        model.to(get_device())
        cost = cost_of(model.generator, validation.size, _REPEATS)
        rows.append(Row(name, validation.metrics(model), cost))
    with replacing(folder / 'report.json') as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    with replacing(folder / 'report.md') as temporary:
        temporary.write_text(markdown(rows))
    draw(models, validation, folder / 'report.png')
    exported = folder / 'generator.pth'
    export_student(final.checkpoint, exported, trust=True, overwrite=True)
    return rows


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows as text."""
    metrics = list(rows[0].metrics)
    names = ['', *metrics, 'G multiply-adds', 'M weights', 'ms']
    whole = rows[0].cost

    def of(row: Row) -> list[str]:
        c = row.cost
        times = f' ({whole.gmacs / c.gmacs:.1f}x less)' if row is not rows[0] else ''
        return [
            row.name,
            *(f'{row.metrics[name]:.4g}' for name in metrics),
            f'{c.gmacs:.3g}{times}',
            f'{c.parameters / 1e6:.3g}',
            f'{c.milliseconds:.1f}',
        ]

    return names, [of(row) for row in rows]


def on_screen(names: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table that fits a narrow screen, its first column whole.

    Args:
        names: Of the columns; of a metric without its prefix.
        lines: Their cells.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(names):
        justify: Any = 'right' if i else 'left'
        table.add_column(name.rpartition('/')[2], justify=justify, no_wrap=not i)
    for line in lines:
        table.add_row(*line)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    names, lines = cells(rows)
    rule = '|---|' + '---:|' * (len(names) - 1)
    text = [f'| {" | ".join(line)} |' for line in (names, *lines)]
    return '\n'.join([text[0], rule, *text[1:]]) + '\n'


@torch.no_grad()
def draw(models: Mapping[str, Any], validation: Validation, path: Path) -> Path:
    """Draw what every generator makes of some pictures, side by side.

    Args:
        models: Translators by name.
        validation: With the pictures.
        path: PNG file to write.
    """
    rows = []
    for batch in validation.batches:
        made = {name: model.eval().val_step(batch) for name, model in models.items()}
        first = next(iter(made.values()))
        for i, sample in enumerate(first):
            row = {'source': sample['source']}
            row.update({name: found[i]['generated'] for name, found in made.items()})
            row['target'] = sample['target']
            rows.append(row)
        if len(rows) >= _PICTURES:
            break
    rows = rows[:_PICTURES]
    with replacing(path) as temporary:
        figure_of(rows).savefig(temporary, dpi=110, format='png', facecolor='white')
    return path


def figure_of(rows: Sequence[Mapping[str, Tensor]]) -> Any:
    """Pictures in a grid, the names of the columns above the first row.

    Args:
        rows: Each name -> picture (C, H, W) from -1 to 1.

    Returns:
        Figure of matplotlib.
    """
    from matplotlib.figure import Figure

    size = 1.9 * len(rows[0]), 1.95 * len(rows)
    figure = Figure(figsize=size, layout='constrained')
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axis, name in zip(grid[0], rows[0]):
        axis.set_title(name, fontsize=9)
    for axes, row in zip(grid, rows):
        for axis, picture in zip(axes, row.values()):
            axis.imshow(shown(picture))
            axis.set_xticks([])
            axis.set_yticks([])
    return figure


def shown(picture: Tensor) -> np.ndarray:
    """A picture as matplotlib shows it, (H, W, 3), or (H, W) with numbers of classes.

    Args:
        picture: (C, H, W) from -1 to 1; of other than 1 or 3 channels, planes of
            classes, the largest one's number is shown.
    """
    x = picture.detach().float().cpu()
    if len(x) not in (1, 3):
        return x.argmax(0).numpy()
    return ((x.expand(3, -1, -1).clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def translator_of(trained: Trained) -> Translator:
    """The generator of a run, in evaluation mode."""
    cfg = load_config(trained.config)
    model: Any = MODELS.build(student_config(cfg).model)
    contents = load_file(trained.checkpoint, map_location='cpu', trust=True)
    load_contents_strictly(model, contents, str(trained.checkpoint))
    return model.eval()
