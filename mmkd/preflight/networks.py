"""What the two networks are: class, size, cost, weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from rich.table import Table
from torch import Tensor, nn

from ..config import is_distilled
from ..distiller import Distiller
from ..dry_run import eval_mode, synthetic_samples
from ..extended import ADDED, stock_class
from ..losses.base import levels
from ..quiet import quiet
from .findings import Findings, told
from .fit_report import pipeline_of
from .layout import table


@dataclass
class Network:
    """One network in numbers.

    Args:
        name: Its class.
        parameters: Number of weights, without adapters.
        trained: Of them those that are trained.
        flops: Multiply-adds for one picture, as ``mmengine.analysis`` counts;
            ``None`` where it cannot.
        weights: Where they come from.
    """

    name: str
    parameters: int
    trained: int
    flops: int | None
    weights: str


def describe(
    model: Any, weights: str, size: tuple[int, int] | None, findings: Findings
) -> Network:
    """Measure a network.

    Args:
        model: The network; of a distilled student the stock part.
        weights: Where its weights come from.
        size: Height and width of its input in pixels, if known.
        findings: Receives a note where nothing could be counted.

    Returns:
        The numbers.
    """
    own = [p for name, p in model.named_parameters() if not is_ours(name)]
    name = stock_class(type(model)).__name__
    flops = None
    if size is None:
        findings.note(f'{name}: no GFLOPs, as the config does not tell its input size')
    else:
        try:
            flops, left_out = count_flops(model, size)
        except Exception as error:
            findings.note(f'{name}: mmengine cannot count GFLOPs: {told(error)}')
        else:
            if left_out:
                findings.note(f'{name}: GFLOPs without {", ".join(left_out)}')
    return Network(
        name,
        sum(p.numel() for p in own),
        sum(p.numel() for p in own if p.requires_grad),
        flops,
        weights,
    )


def describe_adapters(distiller: Distiller) -> Network:
    """What is trained beside the student: adapters and, of adversaries, critics."""
    weights = list(distiller.parameters())
    for loss in distiller.losses.values():
        if getattr(loss, 'adversary', None) is not None:
            weights += loss.critic.parameters()
    count = sum(p.numel() for p in weights)
    trained = sum(p.numel() for p in weights if p.requires_grad)
    return Network('', count, trained, None, 'random' if count else '')


def is_ours(parameter: str) -> bool:
    """Whether a parameter of a model was added to it: by a distiller, by NetAug."""
    return parameter.partition('.')[0] in ADDED


def first_weights(cfg: Config) -> str:
    """What the student starts from, as its config says.

    Example:
        >>> backbone = dict(init_cfg=dict(type='Pretrained', checkpoint='r50.pth'))
        >>> first_weights(Config(dict(model=dict(backbone=backbone))))
        'backbone r50.pth, else random'
    """
    model = cfg.model.student if is_distilled(cfg) else cfg.model
    found = dict(_pretrained(model, ''))
    named = [f'{path or "all"} {file}' for path, file in found.items()]
    return ', '.join([*named, 'else random'] if named else ['random'])


def _pretrained(cfg: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(cfg, Mapping):
        return
    init = cfg.get('init_cfg')
    if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
        yield path, str(init.get('checkpoint'))
    if isinstance(cfg.get('pretrained'), str):
        yield 'backbone', cfg['pretrained']
    for key, value in cfg.items():
        if key != 'init_cfg':
            yield from _pretrained(value, f'{path}.{key}'.strip('.'))


class _Tensors(nn.Module):
    """A model that returns a tuple of tensors, as tracing wants it."""

    def __init__(self, model: nn.Module, samples: list) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(levels(self.model(inputs, self.samples, mode='tensor')))


@torch.no_grad()
def count_flops(model: Any, size: tuple[int, int]) -> tuple[int, list[str]]:
    """Multiply-adds of a forward pass on one picture.

    Args:
        model: A model with mmengine's interface; left as it was.
        size: Height and width of the picture in pixels.

    Returns:
        The number, and the operators that mmengine has no count for and that
        are more than arithmetic.
    """
    parameter = next(model.parameters())
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    channels = 3 if mean is None else max(mean.numel(), 1)
    inputs = parameter.new_zeros(1, channels, *size)
    logger = logging.getLogger('mmengine.analysis.jit_analysis')
    with quiet(logger=logger), eval_mode(model):
        analyzer = FlopAnalyzer(_Tensors(model, synthetic_samples(size, 1)), inputs)
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analyzer.tracer_warnings('none')
        total, unknown = analyzer.total(), analyzer.unsupported_ops()
    return int(total), sorted(op for op in unknown if not op.startswith('aten::'))


def input_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width that the pipelines of a config bring pictures to.

    Args:
        cfg: Config of a run.

    Returns:
        The last crop or resize of the validation pipeline, else of the training
        pipeline, else the preprocessor's size; ``None`` if none is known.

    Example:
        >>> steps = [dict(type='Resize', scale=(1333, 800)), dict(type='RandomFlip')]
        >>> input_size(Config(dict(val_dataloader=dict(dataset=dict(pipeline=steps)))))
        (800, 1333)
    """
    for loader in ('val_dataloader', 'train_dataloader'):
        for step in reversed(pipeline_of(cfg.get(loader) or {})):
            if _is_size(step.get('crop_size')):
                return tuple(step['crop_size'])
            if _is_size(step.get('scale')):  # (width, height), unlike crops
                return tuple(step['scale'])[::-1]  # type: ignore[return-value]
    for owner in (cfg, cfg.get('model') or {}, cfg.get('model', {}).get('student', {})):
        size = (owner.get('data_preprocessor') or {}).get('size')
        if _is_size(size):
            return tuple(size)  # type: ignore[arg-type]
    return None


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(type(side) is int for side in value)
    )


def networks_table(networks: dict[str, Network], size: Any) -> Table:
    """Student and teacher side by side."""
    flops_at = f'GFLOPs at {size[1]}x{size[0]}' if size else 'GFLOPs'
    numbers = ('parameters', 'trained', flops_at)
    rows = table('', 'class', *numbers, 'weights', numbers=numbers)
    for side, its in networks.items():
        flops = '-' if its.flops is None else f'{its.flops / 1e9:.3g}'
        counts = f'{its.parameters:,}', f'{its.trained:,}'
        rows.add_row(side, its.name, *counts, flops, its.weights)
    return rows
