"""What a generator costs: multiply-adds, weights, time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from ..registry import HOOKS
from .translation import unwrapped


@dataclass(frozen=True)
class Cost:
    """Of one picture.

    Args:
        gmacs: Multiply-adds as the paper's authors count them, in billions: of the
            convolutions, those with the zeros of transposed ones included, and one for
            each output of a normalisation.
        parameters: Number of weights.
        milliseconds: Median time of a pass, where it was measured.
    """

    gmacs: float
    parameters: int
    milliseconds: float | None = None


def cost_of(generator: Any, size: tuple[int, int], repeats: int = 0) -> Cost:
    """What a generator costs for a picture.

    Args:
        generator: One of :mod:`mmkd.gan.generators`.
        size: Height and width.
        repeats: Passes whose time is measured, on the device of its weights; 0 for
            none.

    Example:
        >>> from mmkd.gan import ResnetGenerator
        >>> cost = cost_of(ResnetGenerator(), (256, 256))
        >>> f'{cost.gmacs:.1f} G, {cost.parameters / 1e6:.1f} M'
        '56.8 G, 11.4 M'
    """
    return Cost(
        gmacs=generator.macs(size) / 1e9,
        parameters=sum(p.numel() for p in generator.parameters()),
        milliseconds=latency(generator, size, repeats) if repeats else None,
    )


def latency(generator: nn.Module, size: tuple[int, int], repeats: int = 10) -> float:
    """Median time of a pass of one picture, in milliseconds.

    Args:
        generator: The network; stays in its mode.
        size: Height and width.
        repeats: Passes that count, after two that do not.
    """
    weight = next(generator.parameters())
    channels = getattr(generator, 'in_channels', 3)
    picture = torch.zeros(1, channels, *size, device=weight.device, dtype=weight.dtype)
    wait = torch.cuda.synchronize if weight.is_cuda else lambda: None
    mode, times = generator.training, []
    generator.eval()
    try:
        with torch.inference_mode():
            for _ in range(repeats + 2):
                wait()
                start = time.perf_counter()
                generator(picture)
                wait()
                times.append(1000 * (time.perf_counter() - start))
    finally:
        generator.train(mode)
    return statistics.median(times[2:])


@HOOKS.register_module()
class GeneratorCostHook(Hook):
    """Logs after every validation what the generator costs.

    ``cost/gmacs``, ``cost/parameters`` in millions and ``cost/milliseconds`` of one
    picture on the machine that trains.

    Args:
        size: Height and width of a picture.
        repeats: Passes whose median time it is.
    """

    # Before the log is written.
    priority = 'ABOVE_NORMAL'

    def __init__(self, size: tuple[int, int], repeats: int = 10) -> None:
        self.size = (size[0], size[1])
        self.repeats = repeats

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Measure, and log."""
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        cost = cost_of(unwrapped(model.generator), self.size, self.repeats)
        for name, value in (
            ('gmacs', cost.gmacs),
            ('parameters', cost.parameters / 1e6),
            ('milliseconds', cost.milliseconds),
        ):
            runner.message_hub.update_scalar(f'val/cost/{name}', value)
            if metrics is not None:
                metrics[f'cost/{name}'] = value
