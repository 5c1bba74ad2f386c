"""Pictures that were made before, to be judged again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from ..rng import agreed_seed


class PicturePool(nn.Module):
    """Hands out made pictures, half of them older ones, so that a judge stays fair.

    While it is not full it keeps every picture and hands it out. Then each is
    exchanged, with a probability of a half, for one that is kept.

    What is drawn follows from a seed, the process and the number of draws.

    Reference:
        Shrivastava et al., Learning from Simulated and Unsupervised Images through
        Adversarial Training, CVPR 2017, https://arxiv.org/abs/1612.07828

    Args:
        size: Pictures that are kept; 0 hands out what comes in.
        number: Of the pool in its model: each has draws of its own.

    Raises:
        ValueError: If the size is no whole number, or negative.

    Example:
        >>> pool = PicturePool(2)
        >>> new = [pool(torch.full((1, 1, 1, 1), float(i))).item() for i in range(9)]
        >>> new[:2], all(x <= i for i, x in enumerate(new))
        ([0.0, 1.0], True)
    """

    def __init__(self, size: int, number: int = 0) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 0:
            raise ValueError(
                f'pool_size must be a whole number of at least 0 but is {size!r}'
            )
        self.size = size
        self.number = number
        self.seed: int | None = None
        self.draws = 0
        self.pictures: list[Tensor] = []

    def forward(self, pictures: Tensor) -> Tensor:
        """As many pictures, (N, C, H, W), without a graph."""
        if not self.size:
            return pictures.detach()
        if self.seed is None:
            self.seed = agreed_seed(pictures.device)
        out = []
        for picture in pictures.detach():
            if len(self.pictures) < self.size:
                self.pictures.append(picture.clone())
                out.append(picture)
                continue
            drawn_by = [self.seed, get_rank(), self.draws, self.number]
            generator = np.random.default_rng(drawn_by)
            self.draws += 1
            place = int(generator.integers(2 * self.size))
            if place < self.size:
                out.append(self.pictures[place].to(picture))
                self.pictures[place] = picture.clone()
            else:
                out.append(picture)
        return torch.stack(out)

    def state(self) -> dict[str, Any]:
        """What it has to know to go on, on the CPU."""
        kept = torch.stack(self.pictures).cpu() if self.pictures else None
        return dict(seed=self.seed, draws=self.draws, pictures=kept)

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.seed, self.draws = state['seed'], state['draws']
        kept = state['pictures']
        self.pictures = [] if kept is None else list(kept)
