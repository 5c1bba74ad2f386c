"""Deformable convolution, versions 1 and 2, on torchvision's operator.

Offsets are laid out as (deform group, kernel position, (y, x)) in the channel
axis, masks as (deform group, kernel position); torchvision's operator uses the
same order, so that nothing has to be permuted.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from ._common import extension_op, upcast

_Geometry = tuple[int, int, int, int, int, int, int, int]

# An offset in pixels that carries a sample out of every map.
_FAR = 1e6


def _no_nan(offset: Tensor) -> Tensor:
    """Offsets safe for torchvision, whose kernels use NaN as an index and crash.

    In mmcv a sample at NaN lies outside of the map.
    """
    return torch.nan_to_num(offset, _FAR, _FAR, -_FAR)


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> Tensor:
    """Convolution; ``geometry`` is stride, padding, dilation (h, w), groups."""
    use_mask = mask is not None
    mask = input.new_zeros(input.size(0), 1) if mask is None else mask
    bias = input.new_zeros(weight.size(0)) if bias is None else bias
    input, weight, offset, mask, bias = upcast(input, weight, offset, mask, bias)
    args = input, weight, _no_nan(offset), mask, bias
    return torch.ops.torchvision.deform_conv2d(*args, *geometry, use_mask)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: _Geometry,
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias, in this order."""
    use_mask = mask is not None
    mask = input.new_zeros(input.size(0), 1) if mask is None else mask
    bias = input.new_zeros(weight.size(0)) if bias is None else bias
    grad, input, weight, offset, mask, bias = upcast(
        grad_output, input, weight, offset, mask, bias
    )
    args = grad, input, weight, _no_nan(offset), mask, bias
    return torch.ops.torchvision._deform_conv2d_backward(*args, *geometry, use_mask)


def _size(tensor: Tensor) -> tuple[int, int]:
    """(height, width) of a map (N, C, H, W)."""
    return tensor.size(2), tensor.size(3)


def _leading(tensor: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """The memory of ``tensor`` (N, C, H, W) read as (N, channels, *size).

    The compiled operator takes the shape of offset and mask for granted, and
    DyHead, which passes those of a level twice as fine, is trained and
    published with what that reads: the beginning of each image's memory.
    """
    if tuple(tensor.shape[1:]) == (channels, *size):
        return tensor
    needed, given = channels * size[0] * size[1], tensor[0].numel()
    if given < needed:
        raise ValueError(
            f'offset and mask of modulated_deform_conv must have {channels} x '
            f'{size[0]} x {size[1]} values per image for this output but have '
            f'shape {tuple(tensor.shape)}'
        )
    return tensor.flatten(1)[:, :needed].unflatten(1, (channels, *size))


def _write_leading(target: Tensor, grad: Tensor) -> None:
    """Transpose of :func:`_leading`: write ``grad`` where it was read from."""
    if target.shape == grad.shape:
        target.copy_(grad)
        return
    full = torch.zeros_like(target, memory_format=torch.contiguous_format)
    full.flatten(1)[:, : grad[0].numel()] = grad.flatten(1).to(full)
    target.copy_(full)


@extension_op
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the deformable convolution of ``input`` into ``output``.

    Args:
        input: Shape (N, C, H, W).
        weight: Shape (C_out, C / group, kH, kW).
        offset: Shifts in pixels, shape (N, 2 * deformable_group * kH * kW,
            H_out, W_out).
        output: Output, shape (N, C_out, H_out, W_out).
        columns: Work space of the compiled operator, not used.
        ones: Work space of the compiled operator, not used.
        kW: Columns of the kernel.
        kH: Rows of the kernel.
        dW: Stride of the columns.
        dH: Stride of the rows.
        padW: Zero columns on either side.
        padH: Zero rows on either side.
        dilationW: Dilation of the columns.
        dilationH: Dilation of the rows.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        im2col_step: Batch step of the compiled operator; without influence.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


@extension_op
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add to ``gradInput``, overwrite ``gradOffset``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.add_(grads[0].to(gradInput))
    gradOffset.copy_(grads[2])


@extension_op
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the weight gradient to ``gradWeight``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The weight gradient does not depend on the weight: any of its shape does.
    grads = _backward(
        gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, geometry
    )
    gradWeight.add_(grads[1].to(gradWeight), alpha=scale)


@extension_op
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated deformable convolution of ``input`` into ``output``.

    Args:
        input: Shape (N, C, H, W).
        weight: Shape (C_out, C / group, kernel_h, kernel_w).
        bias: Shape (C_out, ); not used unless ``with_bias``.
        ones: Work space of the compiled operator, not used.
        offset: Shifts in pixels, shape (N, 2 * deformable_group * kernel_h *
            kernel_w, H_out, W_out).
        mask: Factor of each sample, half as many channels as ``offset``.
        output: Output, shape (N, C_out, H_out, W_out).
        columns: Work space of the compiled operator, not used.
        kernel_h: Rows of the kernel.
        kernel_w: Columns of the kernel.
        stride_h: Stride of the rows.
        stride_w: Stride of the columns.
        pad_h: Zero rows on either side.
        pad_w: Zero columns on either side.
        dilation_h: Dilation of the rows.
        dilation_w: Dilation of the columns.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        with_bias: Whether to add ``bias``.
    """
    geometry = (
        stride_h,
        stride_w,
        pad_h,
        pad_w,
        dilation_h,
        dilation_w,
        group,
        deformable_group,
    )
    taps, size = deformable_group * kernel_h * kernel_w, _size(output)
    offset, mask = _leading(offset, 2 * taps, size), _leading(mask, taps, size)
    output.copy_(
        _forward(input, weight, offset, mask, bias if with_bias else None, geometry)
    )


@extension_op
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to the gradients of input, weight and bias, overwrite the others."""
    geometry = (
        stride_h,
        stride_w,
        pad_h,
        pad_w,
        dilation_h,
        dilation_w,
        group,
        deformable_group,
    )
    taps, size = deformable_group * kernel_h * kernel_w, _size(grad_output)
    offset, mask = _leading(offset, 2 * taps, size), _leading(mask, taps, size)
    grads = _backward(
        grad_output, input, weight, offset, mask, bias if with_bias else None, geometry
    )
    grad_input.add_(grads[0].to(grad_input))
    grad_weight.add_(grads[1].to(grad_weight))
    _write_leading(grad_offset, grads[2])
    _write_leading(grad_mask, grads[3])
    if with_bias:
        grad_bias.add_(grads[4].to(grad_bias))
