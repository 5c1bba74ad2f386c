"""CARAFE: content-aware reassembly of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import extension_op, recomputed_grads, upcast


def _reassemble(
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:
    """Each output pixel: its source pixel's neighbourhood under its own kernel.

    Args:
        features: Shape (N, C, H, W).
        masks: Kernels, shape (N, group_size * kernel_size^2, sH, sW).
        kernel_size: Side of a kernel, odd.
        group_size: Groups of channels, each with kernels of its own.
        scale_factor: Upsampling factor s.

    Returns:
        Shape (N, C, sH, sW); differentiable.
    """
    num, channels, height, width = features.shape
    taps, scale = kernel_size**2, scale_factor
    patches = F.unfold(features, kernel_size, padding=kernel_size // 2)
    patches = patches.view(num, group_size, channels // group_size, taps, height, width)
    masks = masks.view(num, group_size, taps, height, scale, width, scale)
    out = torch.einsum('ngckhw,ngkhiwj->ngchiwj', patches, masks)
    return out.reshape(num, channels, height * scale, width * scale)


def _add_grads(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    settings: tuple[int, int, int],
) -> None:
    """Add both gradients to ``grad_input`` and ``grad_masks``."""
    grads = recomputed_grads(
        lambda f, m: _reassemble(f, m, *settings), upcast(features, masks), grad_output
    )
    grad_input.add_(grads[0].to(grad_input))
    grad_masks.add_(grads[1].to(grad_masks))


@extension_op
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features into ``output``.

    Args:
        features: Shape (N, C, H, W).
        masks: Kernels, shape (N, group_size * kernel_size^2, sH, sW);
            row-major within a kernel.
        output: Output, shape (N, C, sH, sW).
        kernel_size: Side of a kernel, odd.
        group_size: Groups of channels, each with kernels of its own.
        scale_factor: Upsampling factor s.
    """
    feature, mask = upcast(features, masks)
    output.copy_(_reassemble(feature, mask, kernel_size, group_size, scale_factor))


@extension_op
def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients to ``grad_input`` and ``grad_masks``."""
    _add_grads(
        grad_output,
        features,
        masks,
        grad_input,
        grad_masks,
        (kernel_size, group_size, scale_factor),
    )


@extension_op
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features into ``output``.

    ``rfeatures`` receives the features: it is all that the backward gets of
    them. ``routput`` and ``rmasks`` are work space of the compiled operator.
    """
    rfeatures.copy_(features)
    feature, mask = upcast(features, masks)
    output.copy_(_reassemble(feature, mask, kernel_size, group_size, scale_factor))


@extension_op
def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients to ``grad_input`` and ``grad_masks``.

    The remaining ``rgrad_*`` are work space of the compiled operator.
    """
    _add_grads(
        grad_output,
        rfeatures,
        masks,
        grad_input,
        grad_masks,
        (kernel_size, group_size, scale_factor),
    )
