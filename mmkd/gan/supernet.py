"""A generator that holds many narrower ones: its leading channels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..registry import MODELS
from ..rng import preserved_rng
from .generators import MobileResnetGenerator
from .layers import check_positive
from .widths import PARTS, Widths, expanded

#: Of ``ngf``: for 64 the authors' 64, 48, 32, 24 and 16.
FACTORS = (1.0, 0.75, 0.5, 0.375, 0.25)


@MODELS.register_module()
class SuperMobileResnetGenerator(MobileResnetGenerator):
    """All generators of some widths in one, trained once.

    Convolutions use their leading channels. A sub-network has the same outputs, bit
    for bit, as a :class:`~mmkd.gan.generators.MobileResnetGenerator` that is built
    with its widths and given its weights (:meth:`extracted`).

    Reference:
        Li et al., GAN Compression: Efficient Architectures for Interactive
        Conditional GANs, CVPR 2020, https://arxiv.org/abs/2003.08936

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        ngf: Channels at full resolution of the largest sub-network, 64 by default;
            without effect where ``choices`` are given.
        num_blocks: Residual blocks.
        choices: Eight lists of widths to choose from, one for each part; by default
            ``ngf`` and 3/4, 1/2, 3/8 and 1/4 of it, for all of them.
        dropout: Probability inside of blocks.

    Attributes:
        choices: The eight lists, the largest width first.

    Raises:
        ValueError: If the choices are not eight lists of positive whole numbers.

    Example:
        >>> import torch
        >>> supernet = SuperMobileResnetGenerator(ngf=8, num_blocks=3)
        >>> x, channels = torch.rand(1, 3, 16, 16), [8, 4, 6, 2, 8, 4, 6, 2]
        >>> with supernet.narrowed(channels):
        ...     y = supernet(x)
        >>> bool((y == supernet.extracted(channels)(x)).all())
        True
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        ngf: int | None = None,
        num_blocks: int = 9,
        choices: Sequence[Sequence[int]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        if choices is None:
            ngf = 64 if ngf is None else ngf
            check_positive(ngf=ngf)
            own = sorted({round(ngf * factor) for factor in FACTORS} - {0})
            choices = [own] * 8
        lists = all(isinstance(part, (list, tuple)) and part for part in choices)
        if len(choices) != 8 or not lists:
            raise ValueError(
                'choices must be eight lists of widths, one for each of '
                f'{", ".join(PARTS)}, but are {choices}'
            )
        for width in {width for part in choices for width in part}:
            expanded([width] * 8)
        largest = [max(part) for part in choices]
        if ngf not in (None, max(largest)):
            print_log(
                f'mmkd: ngf={ngf} has no effect on a supernet with choices, of at most '
                f'{max(largest)} channels: change these, or leave them out',
                logger='current',
                level=logging.WARNING,
            )
        super().__init__(
            in_channels,
            out_channels,
            num_blocks=num_blocks,
            channels=largest,
            dropout=dropout,
        )
        self.choices = tuple(tuple(sorted(set(p), reverse=True)) for p in choices)
        self.dropout = dropout
        for module in self.modules():
            if type(module) in _SLICED:
                module.__class__ = _SLICED[type(module)]

    def sample(self, seed: int, iteration: int) -> tuple[int, ...]:
        """Widths of a sub-network, all equally likely: the same on every rank.

        Args:
            seed: Of the run.
            iteration: Of the run.
        """
        generator = np.random.default_rng([seed, iteration])
        return tuple(int(generator.choice(part)) for part in self.choices)

    @contextmanager
    def narrowed(self, channels: Sequence[int]) -> Iterator[None]:
        """Be a sub-network inside a ``with`` block.

        Args:
            channels: Its eight widths, any up to the largest.

        Raises:
            ValueError: If one is larger.
        """
        widths = self._widths_of(channels)
        outputs = list(self._outputs(widths))
        before = [layer.active for layer, _ in outputs]
        for layer, active in outputs:
            layer.active = active
        whole, self.widths = self.widths, widths
        try:
            yield
        finally:
            self.widths = whole
            for (layer, _), active in zip(outputs, before):
                layer.active = active

    def extracted(self, channels: Sequence[int]) -> MobileResnetGenerator:
        """A sub-network by itself.

        Args:
            channels: Its eight widths, any up to the largest.

        Returns:
            A generator with copies of the weights.

        Raises:
            ValueError: If one is larger.
        """
        self._widths_of(channels)
        with preserved_rng():
            alone = MobileResnetGenerator(
                self.in_channels,
                self.out_channels,
                num_blocks=self.num_blocks,
                channels=channels,
                dropout=self.dropout,
            )
        weights = self.state_dict()
        leading = {
            name: weights[name][tuple(map(slice, value.shape))].clone()
            for name, value in alone.state_dict().items()
        }
        alone.load_state_dict(leading)
        return alone.to(next(self.parameters()).device).train(self.training)

    def _widths_of(self, channels: Sequence[int]) -> Widths:
        for part, given, most in zip(PARTS, expanded(channels), self.channels):
            if given > most:
                raise ValueError(
                    f'channels must be at most {self.channels}, as of the supernet, '
                    f'but {given} for the {part} are not'
                )
        return Widths.of(channels, self.num_blocks)

    def _outputs(self, widths: Widths) -> Iterator[tuple[Any, int]]:
        """Layers whose number of outputs follows from the widths, and the number."""
        sides = [m for m in self.model if isinstance(m, (SlicedConv, SlicedTransposed))]
        numbers = (widths.stem, widths.down, widths.trunk, widths.up, widths.last)
        yield from zip(sides, numbers)  # the last one's are those of the picture
        blocks: Any = [m for m in self.model if isinstance(m, self.block)]
        for block, middle in zip(blocks, widths.middles):
            yield block.conv_block[1].conv[2], middle
            yield block.conv_block[6].conv[2], widths.trunk


class SlicedConv(nn.Conv2d):
    """A convolution of the leading channels: as many as come in, ``active`` of out."""

    active: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, active, H', W')."""
        ins = x.shape[1]
        if self.groups > 1:  # one channel each
            return self._conv_forward_of(x, self.weight[:ins], self.bias, ins)
        weight = self.weight[: self.active, :ins]
        return self._conv_forward_of(x, weight, self.bias, 1)

    def _conv_forward_of(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int
    ) -> Tensor:
        # Contiguous as a network's that is built so: the same kernels, the same bits.
        bias = None if bias is None else bias[: len(weight)]
        told = self.stride, self.padding, self.dilation
        return F.conv2d(x, weight.contiguous(), bias, *told, groups)  # type: ignore


class SlicedTransposed(nn.ConvTranspose2d):
    """A transposed convolution of the leading channels; see :class:`SlicedConv`."""

    active: int | None = None

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Map (N, active, H', W')."""
        weight = self.weight[: x.shape[1], : self.active].contiguous()
        bias = None if self.bias is None else self.bias[: self.active]
        told = self.stride, self.padding, self.output_padding
        return F.conv_transpose2d(x, weight, bias, *told)  # type: ignore[arg-type]


_SLICED: dict[type, type] = {
    nn.Conv2d: SlicedConv,
    nn.ConvTranspose2d: SlicedTransposed,
}
