"""Operators of StyleGAN2: fused bias and activation, resampling filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import extension_op, upcast

_LEAKY_RELU = 3


@extension_op
def fused_bias_leakyrelu(
    input: Tensor,
    bias: Tensor,
    refer: Tensor,
    act: int,
    grad: int,
    alpha: float,
    scale: float,
) -> Tensor:
    """Add a bias, apply a leaky ReLU (or its derivative), and scale.

    Args:
        input: Shape (N, C, ...).
        bias: Shape (C, ), or empty for none.
        refer: Result of the forward, whose sign selects the slope when
            ``grad`` is 1; empty otherwise.
        act: 1 for linear, 3 for leaky ReLU.
        grad: 0 for the forward, 1 for the first and 2 for the second
            derivative (which is zero).
        alpha: Slope for negative values.
        scale: Overall factor.

    Returns:
        Shape of ``input``.
    """
    if grad == 2:
        return torch.zeros_like(input)
    out = input
    if bias.numel():
        out = out + bias.to(out).view(-1, *[1] * (input.dim() - 2))
    if act == _LEAKY_RELU:
        sign = refer if grad else out
        out = torch.where(sign > 0, out, out * alpha)
    return out * scale


@extension_op
def upfirdn2d(
    input: Tensor,
    filter: Tensor,
    upx: int,
    upy: int,
    downx: int,
    downy: int,
    padx0: int,
    padx1: int,
    pady0: int,
    pady1: int,
    flip: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad or crop, filter, and keep every n-th sample.

    Args:
        input: Shape (N, C, H, W).
        filter: FIR filter, shape (h, w).
        upx: Upsampling factor of the columns.
        upy: Upsampling factor of the rows.
        downx: Downsampling factor of the columns.
        downy: Downsampling factor of the rows.
        padx0: Zeros on the left after upsampling; negative to crop.
        padx1: The same on the right.
        pady0: The same at the top.
        pady1: The same at the bottom.
        flip: False for convolution, True for correlation.
        gain: Factor on the result.

    Returns:
        Shape (N, C, H', W').
    """
    signal, kernel = upcast(input, filter)
    num, channels, height, width = signal.shape
    spread = signal.new_zeros(num, channels, height, upy, width, upx)
    spread[:, :, :, 0, :, 0] = signal
    signal = spread.reshape(num, channels, height * upy, width * upx)
    signal = F.pad(signal, (padx0, padx1, pady0, pady1))
    kernel = kernel * gain if flip else kernel.flip(0, 1) * gain
    kernel = kernel.expand(channels, 1, *kernel.shape)
    out = F.conv2d(signal, kernel, stride=(downy, downx), groups=channels)
    return out.to(input.dtype)
