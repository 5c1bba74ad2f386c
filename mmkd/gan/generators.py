"""Generators that make a picture of a picture: a stem, residual blocks, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..registry import MODELS
from .layers import InstanceNorm, SeparableConv2d, check_positive, init_normal
from .widths import Widths, expanded, macs

#: How much smaller the trunk is: sides of pictures are multiples of it.
STRIDE = 4


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        trunk: Channels of input and output.
        middle: Channels between the convolutions.
        dropout: Probability.
    """

    layer: ClassVar[Any] = nn.Conv2d

    def __init__(self, trunk: int, middle: int, dropout: float) -> None:
        super().__init__()
        # Numbers of the layers as in the authors' code, whose weights load.
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            self.layer(trunk, middle, 3),
            InstanceNorm(),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.ReflectionPad2d(1),
            self.layer(middle, trunk, 3),
            InstanceNorm(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map of the shape of the input, (N, C, H, W)."""
        return x + self.conv_block(x)


class MobileResnetBlock(ResnetBlock):
    """The same with separable convolutions; see :class:`ResnetBlock`."""

    layer = SeparableConv2d


@MODELS.register_module()
class ResnetGenerator(nn.Module):
    """The generator of CycleGAN, and of pix2pix in GAN Compression.

    Its keys are those of the authors' code, with instance normalisation, so that
    their weights load.

    Reference:
        Li et al., GAN Compression: Efficient Architectures for Interactive
        Conditional GANs, CVPR 2020, https://arxiv.org/abs/2003.08936

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        ngf: Channels at full resolution; the trunk has four times as many.
        num_blocks: Residual blocks.
        channels: In place of ``ngf`` eight numbers, one for each part; see
            :class:`~mmkd.gan.widths.Widths`.
        dropout: Probability inside of blocks.

    Attributes:
        channels: The eight numbers.
        widths: What they stand for.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import torch
        >>> generator = ResnetGenerator(ngf=8, num_blocks=3)
        >>> generator(torch.zeros(2, 3, 16, 24)).shape
        torch.Size([2, 3, 16, 24])
        >>> generator.taps
        ['model.9', 'model.10', 'model.11', 'model.12']
    """

    block: ClassVar[type[ResnetBlock]] = ResnetBlock
    is_separable: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        ngf: int = 64,
        num_blocks: int = 9,
        channels: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            ngf=ngf,
            num_blocks=num_blocks,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_blocks = num_blocks
        self.channels = expanded([ngf] * 8 if channels is None else channels)
        self.widths = w = Widths.of(self.channels, num_blocks)
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, w.stem, 7),
            *_normalised(),
            nn.Conv2d(w.stem, w.down, 3, stride=2, padding=1),
            *_normalised(),
            nn.Conv2d(w.down, w.trunk, 3, stride=2, padding=1),
            *_normalised(),
            *(self.block(w.trunk, middle, dropout) for middle in w.middles),
            nn.ConvTranspose2d(w.trunk, w.up, 3, 2, 1, 1),
            *_normalised(),
            nn.ConvTranspose2d(w.up, w.last, 3, 2, 1, 1),
            *_normalised(),
            nn.ReflectionPad2d(3),
            nn.Conv2d(w.last, out_channels, 7),
            nn.Tanh(),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights of a standard deviation of 0.02, no biases."""
        init_normal(self)
        self.is_init = True  # or a Runner would draw again, over what was copied here

    @property
    def taps(self) -> list[str]:
        """What is compared with a teacher: the trunk's input and after each third."""
        third = max(self.num_blocks // 3, 1)
        ends = [third * (i + 1) for i in range(min(self.num_blocks, 3))]
        if ends[-1] != self.num_blocks:
            ends[-1] = self.num_blocks
        return [f'model.{9 + end}' for end in (0, *ends)]

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-adds for a picture.

        Args:
            size: Its height and width.
        """
        return macs(
            self.widths, size, self.in_channels, self.out_channels, self.is_separable
        )

    def forward(self, x: Tensor) -> Tensor:
        """A picture of a picture.

        Args:
            x: (N, C, H, W), from -1 to 1, sides multiples of 4 and at least 8.

        Returns:
            (N, C', H, W), from -1 to 1.

        Raises:
            ValueError: If a side is another.
        """
        if any(side % STRIDE or side < 2 * STRIDE for side in x.shape[-2:]):
            raise ValueError(
                f'sides of pictures must be multiples of {STRIDE}, or what comes out '
                f'has another size, and at least {2 * STRIDE}, for the padding of the '
                f'trunk, but are {tuple(x.shape[-2:])}'
            )
        return self.model(x)


@MODELS.register_module()
class MobileResnetGenerator(ResnetGenerator):
    """The same with separable convolutions in its blocks, a third of the work.

    Args:
        kwargs: See :class:`ResnetGenerator`.

    Example:
        >>> sizes = [kind().macs((256, 256)) for kind in
        ...          (ResnetGenerator, MobileResnetGenerator)]
        >>> [f'{size / 1e9:.1f} G' for size in sizes]
        ['56.8 G', '18.4 G']
    """

    block = MobileResnetBlock
    is_separable = True


def _normalised() -> tuple[nn.Module, nn.Module]:
    return InstanceNorm(), nn.ReLU(inplace=True)
