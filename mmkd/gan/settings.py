"""How sub-networks are searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Channels = tuple[int, ...]

_NUMBERS: Mapping[str, tuple[Any, str]] = dict(
    macs=((int, float), 'a number'),
    milliseconds=((int, float), 'a number'),
    population=(int, 'a whole number'),
    generations=(int, 'a whole number'),
)


@dataclass(frozen=True)
class Settings:
    """How sub-networks are bred; by default as the paper does.

    Args:
        metric: Name of what is to be good, such as ``'pictures/fid'``.
        macs: Budget in multiply-adds of a picture; or
        milliseconds: budget in time.
        population: Sub-networks that are looked at in each generation.
        generations: After the first one.
        parents: Share of them that have children.
        mutation: Share of the children that are a parent's with some widths drawn
            anew; the others have each width of one of two parents.
        mutate_prob: Probability that a width is drawn anew.
        seed: Of all draws.
        larger_is_better: Of the metric; known for those of mmkd.

    Raises:
        ValueError: If there is not one budget, or a number is out of range.
    """

    metric: str
    macs: float | None = None
    milliseconds: float | None = None
    population: int = 100
    generations: int = 500
    parents: float = 0.25
    mutation: float = 0.5
    mutate_prob: float = 0.2
    seed: int = 0
    larger_is_better: bool | None = None

    def __post_init__(self) -> None:
        for name, (kind, words) in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, kind) and value < math.inf):
                raise ValueError(f'{name} must be {words} but is {value!r}')
        if (self.macs is None) == (self.milliseconds is None) or self.budget <= 0:
            raise ValueError(
                'a search must have one budget, macs or milliseconds, above 0, but has '
                f'macs={self.macs} and milliseconds={self.milliseconds}'
            )
        if self.population < 2 or self.generations < 0:
            raise ValueError(
                'population must be at least 2 and generations at least 0 but are '
                f'{self.population} and {self.generations}'
            )
        for name in ('parents', 'mutation', 'mutate_prob'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f'{name} must be from 0 to 1 but is {getattr(self, name)}'
                )

    @property
    def budget(self) -> float:
        """The budget, in its unit."""
        return float(self.macs or self.milliseconds or 0)

    @property
    def sign(self) -> int:
        """1 if the metric is to be large, -1 if small."""
        larger = self.larger_is_better
        if larger is None:
            name = self.metric.rpartition('/')[2].removeprefix('proxy_')
            larger = name not in ('fid', 'kid', 'lpips')
        return 1 if larger else -1


def check_budget(least: Channels, cost: float, settings: Settings) -> None:
    """Refuse a budget that nothing fits in.

    Args:
        least: Widths of the narrowest sub-network.
        cost: What it costs.
        settings: With the budget.

    Raises:
        ValueError: If it costs more.
    """
    if cost > settings.budget:
        raise ValueError(
            f'the budget must be at least {cost:g}, of the narrowest sub-network '
            f'{list(least)}, but is {settings.budget:g}'
        )


def check_metric(found: Mapping[str, float], settings: Settings) -> None:
    """Refuse a metric that is not evaluated.

    Args:
        found: What is, by name.
        settings: With the metric.

    Raises:
        ValueError: If it is not among them.
    """
    if settings.metric not in found:
        raise ValueError(
            f'metric must be one of {sorted(found)}, which are evaluated, but is '
            f'{settings.metric!r}'
        )
