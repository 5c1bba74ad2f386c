"""A search on a trained supernet, and what is written of it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..fileio import file_digest, replacing
from .search import Evolution, Journal
from .settings import Channels, Settings
from .slicing import finetuning_of, write_finetuning
from .sub_networks import SubNetworks, read_run

#: What of a loader only says how fast it is.
OF_SPEED = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Args:
        best: Widths of the best sub-network.
        front: Widths, cost in G multiply-adds or milliseconds, and metrics of each
            than which no cheaper one is as good.
        metric: The metric's name.
        unit: Of the cost.
        weights: Checkpoint with the best one, to go on from.
        config: Config that trains it further.
        picture: All that were evaluated, by cost and metric.
    """

    best: Channels
    front: Sequence[tuple[Channels, float, Mapping[str, float]]]
    metric: str
    unit: str
    weights: Path
    config: Path
    picture: Path


def settings_of(cfg: Config, **told: Any) -> Settings:
    """How a config wants to be searched.

    Args:
        cfg: With a dict ``search``, or none.
        told: What counts instead; ``None`` does not. Either budget replaces the other.

    Raises:
        ValueError: If there is something unknown in it, or no metric.
    """
    options = dict(cfg.get('search') or {})
    told = {key: value for key, value in told.items() if value is not None}
    if {'macs', 'milliseconds'} & told.keys():
        for budget in ('macs', 'milliseconds'):
            options.pop(budget, None)
    options.update(told)
    known = {field.name for field in fields(Settings)}
    if not set(options) <= known or 'metric' not in options:
        raise ValueError(
            f'search must have a metric and a budget, and of {sorted(known)} no other '
            f'keys, but has {sorted(options)}'
        )
    return Settings(**options)


def search(
    cfg: Config,
    checkpoint: str | Path,
    settings: Settings,
    folder: Path,
    tell: Callable[[int, int, str], Any] = lambda *_: None,
    trust: bool = False,
) -> Found:
    """Search the sub-networks of a run's checkpoint, and write what is found.

    Args:
        cfg: Config of the supernet's run.
        checkpoint: Its checkpoint.
        settings: See :class:`~mmkd.gan.settings.Settings`.
        folder: Gets ``search.jsonl``, by which a search goes on, ``search.png``,
            ``best.pth`` and ``finetune.py``.
        tell: Called with the number of looks, that of all, and the best so far.
        trust: Allow the checkpoint to run code while it is loaded.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If something does not fit.
    """
    finetuning_of(cfg)  # a mistake in it is told now
    contents = read_run(cfg, checkpoint, trust)
    nets = SubNetworks(cfg, contents, str(checkpoint))
    by_time = settings.milliseconds is not None
    of_speed = (*OF_SPEED, 'batch_size')
    pictures = {k: v for k, v in cfg.val_dataloader.items() if k not in of_speed}
    about = dict(
        weights=file_digest(checkpoint),
        choices=nets.supernet.choices,
        pictures=nets.validation.pictures,
        size=nets.validation.size,
        judged=mark(pictures, cfg.val_evaluator),
        **(dict(device=_machine()) if by_time else {}),
    )
    evolution = Evolution(
        nets.supernet.choices,
        settings,
        nets.milliseconds if by_time else nets.macs,
        nets.metrics,
        Journal(folder / 'search.jsonl', about),
    )

    def report(looks: int, best: Channels, score: float) -> None:
        tell(looks, evolution.total, f'{settings.metric} {score:.4g}')

    best = evolution.run(report)
    scale, unit = (1.0, 'ms') if by_time else (1e-9, 'G multiply-adds')
    front = [
        (c, evolution.cost(c) * scale, evolution.journal.known['metrics', c])
        for c in evolution.front()
    ]
    points = [
        (evolution.cost(c) * scale, evolution.score(c))
        for c in evolution.journal.evaluated()
    ]
    picture = draw_search(points, front, best, settings, unit, folder / 'search.png')
    weights, config = write_finetuning(contents, cfg, best, folder)
    return Found(best, front, settings.metric, unit, weights, config, picture)


def mark(*parts: Any) -> str:
    """What tells parts of a config from others.

    Example:
        >>> mark(dict(a=1, b=2)) == mark(dict(b=2, a=1))
        True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _machine() -> str:
    """What times are measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'{platform.node()}, {torch.get_num_threads()} threads'


def draw_search(
    points: list[tuple[float, float]],
    front: Sequence[tuple[Channels, float, Mapping[str, float]]],
    best: Channels,
    settings: Settings,
    unit: str,
    path: Path,
) -> Path:
    """Draw cost and metric of all sub-networks, and the front.

    Args:
        points: Cost and metric of each.
        front: See :class:`Found`.
        best: The best one.
        settings: With metric and budget.
        unit: Of the cost.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    x, y = zip(*points)
    axes.scatter(x, y, s=14, color='#9aa5b1', label=f'{len(points)} evaluated')
    costs = [cost for _, cost, _ in front]
    scores = [metrics[settings.metric] for _, _, metrics in front]
    axes.plot(costs, scores, marker='o', ms=4, color='#1f6feb', label='front')
    for (channels, *_), cost, score in zip(front, costs, scores):
        if channels == best:
            axes.scatter([cost], [score], marker='*', s=160, color='#d1495b', zorder=3)
            name = '-'.join(map(str, channels))
            axes.annotate(
                name, (cost, score), (6, 6), textcoords='offset points', fontsize=8
            )
    axes.axvline(
        settings.budget * (1 if unit == 'ms' else 1e-9), ls='--', lw=1, color='#555'
    )
    axes.set_xlabel(f'{unit} per picture; dashed: the budget')
    wanted = 'larger' if settings.sign > 0 else 'smaller'
    axes.set_ylabel(f'{settings.metric} ({wanted} is better)')
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format='png', facecolor='white')
    return path
