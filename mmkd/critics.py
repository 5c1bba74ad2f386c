"""Critics: networks that score how much a map looks like a teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .registry import MODELS

#: Shortest side with which four halvings leave something for the last convolution.
SHORTEST_SIDE = 65
NORMS = ('batch', None)


class SelfAttention(nn.Module):
    """Self-attention over the positions of a map; its gain starts at 0.

    Reference:
        Zhang et al., Self-Attention Generative Adversarial Networks, ICML 2019,
        https://arxiv.org/abs/1805.08318

    Args:
        channels: Width of the map, at least 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(self.value.weight.new_zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map of the shape of the input, (N, C, H, W)."""
        query, key, value = (
            f(x).flatten(2) for f in (self.query, self.key, self.value)
        )
        # Not F.scaled_dot_product_attention: its fast kernels have no second
        # derivative, which the gradient penalty needs.
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        return x + self.gain * (value @ attention.transpose(1, 2)).view_as(x)


@MODELS.register_module()
class SelfAttentionCritic(nn.Module):
    """The discriminator of structured knowledge distillation.

    Four spectrally normalised 4x4 convolutions of stride 2 with LeakyReLU 0.1,
    self-attention after the third and the fourth, and a 4x4 convolution to one score.
    A map with a side below 65 is enlarged so that its shorter side is 65: the
    authors' code fails on it.

    Reference:
        Liu et al., Structured Knowledge Distillation for Semantic Segmentation,
        CVPR 2019, https://arxiv.org/abs/1903.04197

    Args:
        in_channels: Channels of the maps: classes, and of the image if conditioned.
        condition_on_image: Whether the loss hands out probabilities with the image
            before them (the authors' code of 2019), or logits alone (that of 2020).
        norm: ``'batch'``: the input passes BatchNorm, always with the statistics of
            the batch, so that its images influence each other; ``None``: it is taken
            as it is.
        channels: Width of the first convolution; doubled by each that follows.

    Raises:
        ValueError: If ``norm`` is unknown or ``channels`` is too small.

    Example:
        >>> import torch
        >>> critic = SelfAttentionCritic(in_channels=19, channels=8)
        >>> critic(torch.zeros(2, 19, 8, 12)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        in_channels: int,
        condition_on_image: bool = False,
        norm: str | None = 'batch',
        channels: int = 64,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f'norm must be one of {NORMS} but is {norm!r}')
        if channels < 2:
            raise ValueError(f'channels must be >= 2 but is {channels}')
        self.condition_on_image = condition_on_image
        # Batch statistics always: what it saw before says nothing of this batch.
        self.norm = (
            nn.BatchNorm2d(in_channels, track_running_stats=False) if norm else None
        )
        widths = [in_channels, *(channels * 2**i for i in range(4))]
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1))
            for a, b in zip(widths, widths[1:])
        )
        self.attentions = nn.ModuleList(map(SelfAttention, widths[3:]))
        self.last = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, maps: Tensor) -> Tensor:
        """Score of every image, averaged over the positions of the last convolution.

        Args:
            maps: Shape (N, C, H, W) of any size.

        Returns:
            Shape (N,).
        """
        x = maps if self.norm is None else self.norm(maps)
        x = _enlarged(x)
        for index, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.1)
            if index >= 2:
                x = self.attentions[index - 2](x)
        return self.last(x).flatten(1).mean(1)


def _enlarged(x: Tensor) -> Tensor:
    shorter = min(x.shape[2:])
    if shorter >= SHORTEST_SIDE:
        return x
    size = [round(side * SHORTEST_SIDE / shorter) for side in x.shape[2:]]
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
