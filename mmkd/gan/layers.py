"""Layers of generators and discriminators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Instance normalisation of any number of channels, without weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map of the shape of the input, (N, C, H, W)."""
        return F.instance_norm(x)


class SeparableConv2d(nn.Module):
    """A convolution for each channel, normalisation, and one that mixes channels.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the first one's kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, kernel, groups=in_channels),
            InstanceNorm(),
            nn.Conv2d(in_channels, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C', H - kernel + 1, W - kernel + 1)."""
        return self.conv(x)


def check_positive(**numbers: int) -> None:
    """Insist on positive whole numbers.

    Args:
        numbers: They, by the name of the argument.

    Raises:
        ValueError: If one is not.
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f'{name} must be a positive whole number but is {number}')


def init_normal(model: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of all convolutions anew, as CycleGAN does; biases are 0.

    Args:
        model: The model.
        std: Standard deviation.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
