"""The eight widths of a generator, and what it costs with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: What each number is the width of, in channels per step of resolution: the trunk has
#: four times its number.
PARTS = (
    *('stem', 'first halving', 'trunk'),
    *('first blocks', 'middle blocks', 'last blocks'),
    *('first doubling', 'second doubling'),
)


@dataclass(frozen=True)
class Widths:
    """Channels of a generator, part by part.

    Args:
        stem: At full resolution.
        down: At half resolution.
        trunk: At a quarter, between blocks.
        middles: Inside of every block.
        up: At half resolution again.
        last: At full resolution again.
    """

    stem: int
    down: int
    trunk: int
    middles: tuple[int, ...]
    up: int
    last: int

    @classmethod
    def of(cls, channels: Sequence[int], num_blocks: int) -> Widths:
        """Those that eight numbers stand for, as in the authors' code.

        Blocks are three groups; what does not divide is in the last one.

        Args:
            channels: Eight numbers, or six with one for all groups of blocks.
            num_blocks: Number of blocks.

        Raises:
            ValueError: If they are not six or eight positive whole numbers.

        Example:
            >>> Widths.of([32, 32, 48, 32, 48, 48, 16, 16], 9).middles
            (128, 128, 128, 192, 192, 192, 192, 192, 192)
        """
        a, b, c, *middles, d, e = expanded(channels)
        third = max(num_blocks // 3, 1)
        groups = tuple(4 * middles[min(i // third, 2)] for i in range(num_blocks))
        return cls(a, 2 * b, 4 * c, groups, 2 * d, e)


def expanded(channels: Sequence[int]) -> tuple[int, ...]:
    """Six or eight numbers as eight.

    Args:
        channels: See :meth:`Widths.of`.

    Raises:
        ValueError: If they are not six or eight positive whole numbers.
    """
    given = list(channels)
    if len(given) == 6:
        given = [*given[:3], *[given[3]] * 3, *given[4:]]
    if len(given) != 8 or not all(isinstance(c, int) and c > 0 for c in given):
        raise ValueError(
            f'channels must be eight positive whole numbers, of {", ".join(PARTS)}, or '
            f'six with one for all blocks, but are {list(channels)}'
        )
    return tuple(given)


def macs(
    widths: Widths,
    size: tuple[int, int],
    in_channels: int = 3,
    out_channels: int = 3,
    separable: bool = True,
) -> int:
    """Multiply-adds for one picture, as the authors count them.

    Of convolutions for each position of an output, also where a transposed one
    multiplies by zeros between the pixels of its input, and one for each output of a
    normalisation: published budgets are such numbers.

    Args:
        widths: Of the generator.
        size: Height and width of the picture, multiples of 4.
        in_channels: Of the input.
        out_channels: Of the output.
        separable: Whether blocks have separable convolutions.

    Example:
        >>> full = Widths.of([64] * 8, 9)
        >>> f'{macs(full, (256, 256), separable=False) / 1e9:.1f} G'
        '56.8 G'
        >>> macs(Widths.of([32, 32, 48, 40, 64, 40, 16, 32], 9), (256, 256))
        5761662976
    """
    w, full = widths, size[0] * size[1]
    half, quarter = full // 4, full // 16
    blocks = sum(
        w.trunk * (9 + m) + m * (9 + w.trunk) if separable else 18 * w.trunk * m
        for m in w.middles
    )
    # Behind each convolution but the last, the depthwise ones among them.
    norms = sum((2 if separable else 1) * (w.trunk + m) for m in w.middles)
    return (
        full * 49 * (in_channels * w.stem + w.last * out_channels)
        + half * 9 * w.stem * w.down
        + quarter * 9 * w.down * w.trunk
        + quarter * (blocks + norms)
        + full * (w.stem + w.last)
        + half * (w.down + w.up)
        + quarter * w.trunk
        + half * 9 * w.trunk * w.up
        + full * 9 * w.up * w.last
    )
