"""Masks of point-wise spatial attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import extension_op

_COLLECT = 0


def _relative(
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Mask channel for every (position, centre) pair.

    The mask of a centre is a window around it; the channel that talks about a
    position is their difference.

    Returns:
        Channels (HW, H, W) with the position first and the centre last, and
        whether the position lies in the window.
    """
    rows = torch.arange(h_feature, device=device)
    cols = torch.arange(w_feature, device=device)
    dy = rows[:, None] - rows + half_h_mask
    dx = cols[:, None] - cols + half_w_mask
    inside = ((dy >= 0) & (dy < h_mask))[:, None, :, None] & (
        (dx >= 0) & (dx < w_mask)
    )[None, :, None]
    channel = (
        dy.clamp(0, h_mask - 1)[:, None, :, None] * w_mask
        + dx.clamp(0, w_mask - 1)[None, :, None]
    )
    return channel.flatten(0, 1), inside.flatten(0, 1)


@extension_op
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the attention between all pairs of positions into ``output``.

    Args:
        input: Window of each centre, shape (N, h_mask * w_mask, H, W).
        output: Output, shape (N, HW, H, W), 0 outside the windows. Channels are
            the window's positions for collect, the centres for distribute.
        psa_type: 0 for collect, 1 for distribute.
        num_: Number of images N.
        h_feature: Rows H of the feature map.
        w_feature: Columns W of the feature map.
        h_mask: Rows of a window.
        w_mask: Columns of a window.
        half_h_mask: Row of the centre in its window.
        half_w_mask: Column of the centre in its window.
    """
    channel, inside = _relative(
        h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device
    )
    gathered = input.gather(1, channel.expand(num_, -1, -1, -1)) * inside
    if psa_type != _COLLECT:
        gathered = gathered.flatten(2).transpose(1, 2).reshape(output.shape)
    output.copy_(gathered)


@extension_op
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradient of the windows to ``grad_input``."""
    channel, inside = _relative(
        h_feature,
        w_feature,
        h_mask,
        w_mask,
        half_h_mask,
        half_w_mask,
        grad_input.device,
    )
    grad = grad_output
    if psa_type != _COLLECT:
        grad = grad.flatten(2).transpose(1, 2).reshape(grad_output.shape)
    grad_input.scatter_add_(1, channel.expand(num_, -1, -1, -1), grad * inside)
