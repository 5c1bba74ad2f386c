"""Steps of mmcv's own synchronised batch normalisation (``MMSyncBN``).

The communication between the steps is mmcv's; these compute on one process.
"""

from __future__ import annotations

from torch import Tensor

from ._common import extension_op


@extension_op
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel of ``input`` (N, C, L) into ``mean``."""
    mean.copy_(input.to(mean.dtype).mean(dim=(0, 2)))


@extension_op
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean squared distance from ``mean`` (C, ) into ``var``."""
    centred = input.to(var.dtype) - mean[:, None]
    var.copy_(centred.square().mean(dim=(0, 2)))


@extension_op
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float,
    group_size: int,
) -> None:
    """Normalise ``input`` and update the running statistics.

    Args:
        input: Shape (N, C, L).
        mean: Mean over all processes, shape (C, ).
        var: Biased variance over all processes, shape (C, ).
        weight: Scale, shape (C, ), or None.
        bias: Shift, shape (C, ), or None.
        running_mean: Updated in place, or None.
        running_var: Updated in place with the unbiased variance, or None.
        norm: Output, normalised input, shape (N, C, L).
        std: Output, standard deviation, shape (C, ).
        output: Output, shape (N, C, L).
        eps: Added to the variance.
        momentum: Share of this batch in the running statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.to(norm.dtype) - mean[:, None]) / std[:, None])
    if weight is None or bias is None:
        output.copy_(norm)
    else:
        output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is None or running_var is None:
        return
    share = float(momentum)
    count = input.size(0) * input.size(2) * group_size
    unbiased = var * (count / (count - 1)) if count > 1 else var
    running_mean.mul_(1 - share).add_(mean * share)
    running_var.mul_(1 - share).add_(unbiased * share)


@extension_op
def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Write the gradients of scale and shift, each (C, )."""
    grad = grad_output.to(norm.dtype)
    grad_weight.copy_((grad * norm).sum(dim=(0, 2)))
    grad_bias.copy_(grad.sum(dim=(0, 2)))


@extension_op
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient of the input (N, C, L).

    ``grad_weight`` and ``grad_bias`` are those averaged over the processes.
    """
    count = norm.size(0) * norm.size(2)
    through = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    scale = (weight / std)[:, None]
    grad_input.copy_(scale * (grad_output.to(norm.dtype) - through))
