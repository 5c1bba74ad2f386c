"""Which channels of a network NetAug adds to, and who yields and reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Group:
    """Channels that get wider together.

    Args:
        name: Where they are: the path of a block or of a part of the backbone.
        channels: How many the network has.
        unit: They come in multiples of it, such as the channels of one of the groups
            of a convolution or a GroupNorm.
        factors: What their number may be multiplied by.
    """

    name: str
    channels: int
    unit: int
    factors: tuple[float, ...]

    def size(self, factor: float) -> int:
        """Number of channels at a factor, at least ``channels``.

        As in the authors' code a multiple of 8 near it, here also of the unit.

        Example:
            >>> group = Group('layer1.0', 48, unit=1, factors=(1, 1.6, 2.2, 2.8))
            >>> [group.size(factor) for factor in group.factors]
            [48, 80, 104, 136]
        """
        if factor == 1:
            return self.channels
        step = self.unit * math.ceil(8 / self.unit)
        wanted = self.channels * factor
        near = int(wanted + step / 2) // step * step
        if near < 0.9 * wanted:
            near += step
        return max(near, self.channels)

    @property
    def largest(self) -> int:
        """Number of channels at the largest factor."""
        return max(map(self.size, self.factors))


@dataclass
class Layout:
    """Groups of channels, and the modules that they pass.

    Attributes:
        groups: Name -> group.
        convs: Path of a convolution -> names of the groups that it reads and yields,
            each ``None`` where it is none.
        norms: Path of a normalisation -> name of the group.
        behind: Paths of normalisations of as many channels as ever, of maps that are
            others in a wider network.
        stream: Names of the groups between blocks, not in the middle of one.
        left: Path of what is not extended -> why.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    convs: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)
    stream: set[str] = field(default_factory=set)

    def put_conv(self, path: str, ins: str | None, outs: str | None) -> None:
        """Note what a convolution reads and yields, beside what is known of it."""
        known = self.convs.get(path, (None, None))
        self.convs[path] = (ins or known[0], outs or known[1])

    def sizes(self, factors: Mapping[str, float]) -> dict[str, int]:
        """Name -> number of channels at a factor each; the network's own elsewhere."""
        return {
            name: group.size(factors.get(name, 1))
            for name, group in self.groups.items()
        }


def channels_of(norm: Any) -> int:
    """Number of channels of a BatchNorm or a GroupNorm."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    return norm.num_features


def units(pairs: Sequence[tuple]) -> int:
    """What the channels that pass some modules come in multiples of.

    Args:
        pairs: A convolution whose input or output they are, or ``None``, and a
            normalisation of them, or ``None``.
    """
    found = [1]
    for conv, norm in pairs:
        if conv is not None and conv.groups > 1:
            found.append(conv.out_channels // conv.groups)
        if isinstance(norm, nn.GroupNorm):
            found.append(norm.num_channels // norm.num_groups)
    return math.lcm(*found)
