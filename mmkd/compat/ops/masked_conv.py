"""Gather and scatter steps of a convolution evaluated at masked positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import extension_op


@extension_op
def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the kernel windows of the chosen output positions into columns.

    Args:
        features: Shape (1, C, H, W).
        mask_h_idx: Rows of the positions, int64, shape (M, ).
        mask_w_idx: Columns of the positions, int64, shape (M, ).
        data_col: Output, shape (C * kernel_h * kernel_w, M).
        kernel_h: Rows of the kernel.
        kernel_w: Columns of the kernel.
        pad_h: Zero rows on either side.
        pad_w: Zero columns on either side.
    """
    device = features.device
    # Windows that stick out at the far side are zero there, however large
    # the kernel is.
    padded = F.pad(features[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx[None] + torch.arange(kernel_h, device=device)[:, None]
    cols = mask_w_idx[None] + torch.arange(kernel_w, device=device)[:, None]
    data_col.copy_(padded[:, rows[:, None], cols[None]].reshape(data_col.shape))


@extension_op
def masked_col2im_forward(
    data_col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    output: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write columns (channels, M) to their positions in ``output``.

    Args:
        data_col: Values, shape (channels, M).
        mask_h_idx: Rows of the positions, int64, shape (M, ).
        mask_w_idx: Columns of the positions, int64, shape (M, ).
        output: Output, shape (1, channels, height, width); untouched elsewhere.
        height: Rows of the output.
        width: Columns of the output.
        channels: Channels of the output.
    """
    output[0, :, mask_h_idx, mask_w_idx] = data_col.to(output)
