"""PatchGAN: a discriminator that judges patches of a picture."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..registry import MODELS
from .layers import InstanceNorm, check_positive, init_normal


@MODELS.register_module()
class PatchDiscriminator(nn.Module):
    """Convolutions of 4x4 that score each patch of a picture, of 70x70 with 3 layers.

    Its keys are those of pix2pix's code, with instance normalisation.

    Reference:
        Isola et al., Image-to-Image Translation with Conditional Adversarial
        Networks, CVPR 2017, https://arxiv.org/abs/1611.07004

    Args:
        in_channels: Of what is judged: of the picture, and of what it was made of.
        ndf: Channels of the first layer, doubled by each further one up to 8 times.
        num_layers: Layers of stride 2.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import torch
        >>> PatchDiscriminator(6, ndf=8)(torch.zeros(1, 6, 64, 64)).shape
        torch.Size([1, 1, 6, 6])
    """

    def __init__(self, in_channels: int, ndf: int = 128, num_layers: int = 3) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, ndf=ndf, num_layers=num_layers)
        self.in_channels = in_channels
        self.num_layers = num_layers
        self.smallest = 3 * 2**num_layers
        widths = [ndf * min(2**i, 8) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, ndf, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for i, (before, width) in enumerate(zip(widths, widths[1:]), 1):
            layers += [
                nn.Conv2d(before, width, 4, 2 if i < num_layers else 1, 1),
                InstanceNorm(),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.init_weights()

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> PatchDiscriminator:
        """One of the shape that weights are for.

        Args:
            state: Weights of such a discriminator, by key.
        """
        kernels = [value for value in state.values() if value.ndim == 4]
        ndf, in_channels = kernels[0].shape[:2]
        return cls(in_channels, ndf, len(kernels) - 2)

    def init_weights(self) -> None:
        """Normal weights of a standard deviation of 0.02, no biases."""
        init_normal(self)
        self.is_init = True  # or a Runner would draw again, over what was copied here

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 1, h, w), of no bounds, of pictures (N, C, H, W).

        Raises:
            ValueError: If a picture is smaller than what the layers need.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f'sides of pictures must be at least {self.smallest}, for a '
                f'discriminator of {self.num_layers} layers, but are '
                f'{tuple(x.shape[-2:])}; give it fewer num_layers'
            )
        return self.model(x)
