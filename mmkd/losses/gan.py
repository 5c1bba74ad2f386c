"""What generators and discriminators are trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision

MODES = ('hinge', 'lsgan', 'vanilla')


@full_precision
def discriminator_loss(fake: Tensor, real: Tensor, mode: str = 'hinge') -> Tensor:
    """How far a discriminator is from telling made pictures from real ones.

    Half of the loss of the made ones, which are 0, and of the real ones, which are 1:
    ``'hinge'`` mean(max(0, 1 + s)) and mean(max(0, 1 - s)); ``'lsgan'`` the squared
    difference from 0 and 1; ``'vanilla'`` the binary cross-entropy of the scores.

    Reference:
        Goodfellow et al., NeurIPS 2014 (vanilla), https://arxiv.org/abs/1406.2661;
        Mao et al., ICCV 2017 (lsgan), https://arxiv.org/abs/1611.04076;
        Lim and Ye, Geometric GAN, 2017 (hinge), https://arxiv.org/abs/1705.02894

    Args:
        fake: Scores of made pictures, of any shape.
        real: Scores of real ones.
        mode: One of ``'hinge'``, ``'lsgan'``, ``'vanilla'``.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there is no such mode.

    Example:
        >>> import torch
        >>> fake, real = torch.tensor([-2.0, 0.5]), torch.tensor([3.0, 0.0])
        >>> discriminator_loss(fake, real)  # (1.5 / 2 + 1 / 2) / 2
        tensor(0.6250)
    """
    return (_loss(fake, False, mode) + _loss(real, True, mode)) / 2


@full_precision
def generator_loss(fake: Tensor, mode: str = 'hinge') -> Tensor:
    """How far made pictures are from being taken for real ones.

    ``'hinge'`` is the negative mean of the scores; the others are those of
    :func:`discriminator_loss` for real pictures.

    Args:
        fake: Scores of made pictures, of any shape.
        mode: One of ``'hinge'``, ``'lsgan'``, ``'vanilla'``.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If there is no such mode.

    Example:
        >>> import torch
        >>> generator_loss(torch.tensor([-2.0, 0.5]), 'lsgan')  # (9 + 0.25) / 2
        tensor(4.6250)
    """
    if mode == 'hinge':
        return -fake.mean()
    return _loss(fake, True, mode)


def check_mode(mode: str) -> None:
    """Refuse an unknown loss.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f'gan_mode must be one of {MODES} but is {mode!r}')


def _loss(scores: Tensor, is_real: bool, mode: str) -> Tensor:
    check_mode(mode)
    if mode == 'hinge':
        return F.relu(1 - scores if is_real else 1 + scores).mean()
    target = scores.new_full((), float(is_real)).expand_as(scores)
    if mode == 'lsgan':
        return F.mse_loss(scores, target)
    return F.binary_cross_entropy_with_logits(scores, target)
