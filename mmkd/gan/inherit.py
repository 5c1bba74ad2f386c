"""A narrow generator that starts with the largest channels of a wide one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .generators import ResnetGenerator
from .supernet import SuperMobileResnetGenerator


@torch.no_grad()
def inherit(student: ResnetGenerator, teacher: ResnetGenerator) -> None:
    """Give a generator the channels of another one whose weights are the largest.

    Of every convolution those outputs are kept whose weights have the largest sum of
    absolute values, over the inputs that were kept before. All that adds to the trunk
    keeps the same channels. A supernet gets the largest first, so that every one of
    its sub-networks starts with the largest; other generators keep the order, so that
    one as wide as its teacher is its teacher.

    Reference:
        Li et al., GAN Compression: Efficient Architectures for Interactive
        Conditional GANs, CVPR 2020, https://arxiv.org/abs/2003.08936

    Args:
        student: The narrow one; changed.
        teacher: The wide one.

    Raises:
        ValueError: If the two have other blocks, or the student is wider somewhere.

    Example:
        >>> teacher = ResnetGenerator(ngf=8, num_blocks=3)
        >>> student = ResnetGenerator(ngf=4, num_blocks=3)
        >>> inherit(student, teacher)
        >>> kept = teacher.model[1].weight.abs().sum((1, 2, 3)).topk(4).indices
        >>> bool((student.model[1].weight == teacher.model[1].weight[kept.sort()[0]])
        ...      .all())
        True
    """
    _check(student, teacher)
    is_ordered = isinstance(student, SuperMobileResnetGenerator)
    kept: Tensor = torch.arange(teacher.in_channels)
    for own, theirs in zip(student.model, teacher.model):
        if isinstance(own, (nn.Conv2d, nn.ConvTranspose2d)):
            wanted = None if own is student.model[-2] else own.out_channels
            kept = _take(own, theirs, kept, wanted, is_ordered)
        elif isinstance(own, student.block):
            _take_block(own, theirs, kept, is_ordered)


def _take_block(own: Any, theirs: Any, trunk: Tensor, is_ordered: bool) -> None:
    kept = trunk
    for place in (1, 6):
        first, second = own.conv_block[place], theirs.conv_block[place]
        if hasattr(first, 'conv'):  # separable: a filter for each channel, and a mix
            first.conv[0].weight.copy_(second.conv[0].weight[kept])
            first.conv[0].bias.copy_(second.conv[0].bias[kept])
            first, second = first.conv[2], second.conv[2]
        if place == 1:
            kept = _take(first, second, kept, first.out_channels, is_ordered)
        else:  # added to the trunk
            first.weight.copy_(second.weight[trunk][:, kept])
            first.bias.copy_(second.bias[trunk])


def _take(
    own: Any, theirs: Any, ins: Tensor, wanted: int | None, is_ordered: bool
) -> Tensor:
    """Copy the largest outputs over given inputs; which they are."""
    is_transposed = isinstance(theirs, nn.ConvTranspose2d)
    weight = theirs.weight.transpose(0, 1) if is_transposed else theirs.weight
    weight = weight[:, ins]
    if wanted is None:  # the picture's own channels
        outs = torch.arange(len(weight), device=weight.device)
    else:
        outs = weight.abs().sum((1, 2, 3)).topk(wanted).indices
        outs = outs if is_ordered else outs.sort().values
    taken = weight[outs]
    own.weight.copy_(taken.transpose(0, 1) if is_transposed else taken)
    own.bias.copy_(theirs.bias[outs])
    return outs


def _check(student: ResnetGenerator, teacher: ResnetGenerator) -> None:
    kinds = [g.block.__name__ for g in (student, teacher)]
    if kinds[0] != kinds[1] or student.num_blocks != teacher.num_blocks:
        raise ValueError(
            "a student that starts with its teacher's channels must have its blocks, "
            f'{teacher.num_blocks} of {kinds[1]}, but has {student.num_blocks} of '
            f'{kinds[0]}; let it start from random weights'
        )
    for name in ('in_channels', 'out_channels'):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f'{name} of the student must be {theirs}, as of its teacher, but is '
                f'{ours}'
            )
    ours, theirs = student.channels, teacher.channels
    if any(own > other for own, other in zip(ours, theirs)):
        raise ValueError(
            f'channels of the student must be at most {theirs}, those of its teacher, '
            f'but are {ours}'
        )
