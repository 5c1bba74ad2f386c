"""MGD: the student rebuilds the teacher's features from a part of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Batch
from ..registry import MODELS
from ..rng import agreed_seed, image_generators
from .paired_maps import PairedMapsLoss
from .precision import check_mask, check_same_shape, full_precision


@full_precision
def mgd_loss(rebuilt: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of the squared differences of an image, averaged over the images.

    Reference:
        Yang et al., Masked Generative Distillation, ECCV 2022,
        https://arxiv.org/abs/2205.01529

    Args:
        rebuilt: What was made of the student's features, (N, C, H, W).
        teacher: Tensor of the same shape. Detached internally.
        mask: Positions that count, boolean, (N, 1, H, W); all if not given.

    Returns:
        Scalar tensor, in squared feature units. A differentiable zero if N is 0.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> mgd_loss(torch.zeros(2, 3, 1, 2), torch.ones(2, 3, 1, 2))
        tensor(6.)
    """
    check_same_shape(rebuilt, teacher)
    error = rebuilt - teacher.detach()
    if mask is not None:
        check_mask(mask, rebuilt)
        error = error.masked_fill(~mask.bool(), 0)
    return error.square().sum() / max(len(rebuilt), 1)


@MODELS.register_module()
class MGDLoss(PairedMapsLoss):
    """:func:`mgd_loss`: masked features of the student, rebuilt by two convolutions.

    A random part of the positions is set to 0 in all channels; 3x3 convolutions, ReLU
    between them, that are trained and not exported, predict the teacher's features
    everywhere. Where the widths differ a 1x1 convolution comes before. Levels have
    convolutions of their own and are averaged. Padded areas count for nothing. What is
    masked follows from the seed, the step and the image: nothing else that is random
    changes by it, and a run that was stopped goes on with the same. In evaluation mode
    nothing is masked.

    Args:
        at: Tapped sub-module of the student.
        loss_weight: Factor of the term, small because a whole map is summed. The
            authors add levels, with a weight of 2e-5 in detection: on five of them
            that is 1e-4, the default.
        mask_ratio: Share of the positions that are masked, in [0, 1). On two-stage
            detectors the authors take 0.45 and 5e-7 on a level, in segmentation 0.75.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        adapter: ``dict(in_channels=..., out_channels=...)``, needed where widths
            differ and no dry run can find them.
        levels: Which levels are compared: ``None`` for all in order, ``'stride'`` for
            those of equal size, or pairs of the student's and the teacher's level.

    Raises:
        ValueError: When the model is built: levels or sizes that do not match, no dry
            run, or a ratio out of range.

    Example:
        >>> loss = MGDLoss(mask_ratio=0.5)
        >>> maps = (torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4))
        >>> loss.prepare(maps, maps)
        >>> len(loss.generators), loss(maps, maps).shape
        (2, torch.Size([]))
    """

    networks = 'convolutions'

    def __init__(
        self,
        at: str = 'neck',
        loss_weight: float = 1e-4,
        mask_ratio: float = 0.65,
        teacher_at: str | None = None,
        adapter: dict | None = None,
        levels: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at, adapter, levels)
        if not 0 <= mask_ratio < 1:
            raise ValueError(f'mask_ratio must be in [0, 1) but is {mask_ratio}')
        self.mask_ratio = mask_ratio
        self.generators: Any = nn.ModuleList()
        self.seed: int | None = None
        self.steps = 0

    def prepare_maps(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(t.shape[1], t.shape[1], 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(t.shape[1], t.shape[1], 3, padding=1),
            )
            for _, t in pairs
        ).to(pairs[0][0])

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        if not self.generators:
            raise RuntimeError('the convolutions are made when the model is built')
        if self.training and self.seed is None:
            self.seed = agreed_seed(next(self.parameters()).device)
        value = super().distance(student, teacher, batch)
        self.steps += self.training
        return value

    def compare(
        self, level: int, student: Tensor, teacher: Tensor, batch: Batch | None
    ) -> Tensor:
        if self.training:
            student = student * self._kept(level, student)
        rebuilt = self.generators[level](student)
        valid = batch.valid_mask(student) if batch is not None else None
        return mgd_loss(rebuilt, teacher, valid)

    def _kept(self, level: int, maps: Tensor) -> Tensor:
        """1 where the student's features stay, (N, 1, H, W)."""
        assert self.seed is not None
        step = self.steps * len(self.generators) + level
        drawn = [
            generator.random(maps.shape[2:])
            for generator in image_generators(self.seed, step, len(maps))
        ]
        kept = torch.from_numpy(np.stack(drawn) >= self.mask_ratio)
        return kept[:, None].to(maps)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, mask_ratio={self.mask_ratio}'

    def get_extra_state(self) -> dict[str, Any]:
        """Where the random numbers go on, for checkpoints."""
        return dict(seed=self.seed, steps=self.steps)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.seed, self.steps = state['seed'], state['steps']
