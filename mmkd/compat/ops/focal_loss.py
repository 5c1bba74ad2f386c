"""Focal losses on logits (sigmoid) and on probabilities (softmax)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import compute_dtype, extension_op


def _class_weight(weight: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Weight of each sample's class, shape (N, ); 1 outside the classes.

    The background label equals the number of classes, for which there is no
    entry (the compiled operator reads past the end of ``weight`` there).
    """
    inside = (target >= 0) & (target < weight.numel())
    chosen = weight.to(dtype)[target.clamp(0, weight.numel() - 1)]
    return torch.where(inside, chosen, torch.ones_like(chosen))


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(positive mask, logit of the right answer, its weight), each (N, C).

    With the logit's sign turned where the right answer is "no", both branches
    of the focal loss are one function of it.
    """
    dtype = compute_dtype(input)
    logits = input.to(dtype)
    classes = torch.arange(input.size(1), device=input.device)
    positive = target[:, None] == classes
    signed = torch.where(positive, logits, -logits)
    scale = torch.full_like(logits, 1 - alpha).masked_fill(positive, alpha)
    if weight.numel():
        scale = scale * _class_weight(weight, target, dtype)[:, None]
    return positive, signed, scale


@extension_op
def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    r"""Write the focal loss of every element into ``output``.

    .. math::
        -\alpha_t (1 - p_t)^\gamma \log p_t

    with :math:`p_t = \sigma(x), \alpha_t = \alpha` for the target class and
    :math:`p_t = \sigma(-x), \alpha_t = 1 - \alpha` for the others.

    Args:
        input: Logits, shape (N, C).
        target: Class indices, int64, shape (N, ); C (or any index outside)
            stands for background.
        weight: Class weights, shape (C, ), or empty for none.
        output: Output, shape (N, C).
        gamma: Focusing exponent.
        alpha: Weight of the positive elements.
    """
    _, signed, scale = _sigmoid_terms(input, target, weight, alpha)
    miss = torch.sigmoid(-signed)
    output.copy_(-scale * miss**gamma * F.logsigmoid(signed))


@extension_op
def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each element's loss into ``grad_input`` (N, C)."""
    positive, signed, scale = _sigmoid_terms(input, target, weight, alpha)
    hit, miss = torch.sigmoid(signed), torch.sigmoid(-signed)
    slope = miss**gamma * (gamma * hit * F.logsigmoid(signed) - miss)
    grad_input.copy_(scale * torch.where(positive, slope, -slope))


def _softmax_terms(
    softmax: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(p of the target class, 1 - p, weight or 0 where ignored), each (N, )."""
    dtype = compute_dtype(softmax)
    label = target.clamp(0, softmax.size(1) - 1)
    prob = softmax.to(dtype).gather(1, label[:, None]).squeeze(1)
    scale = ((target >= 0) & (target < softmax.size(1))).to(dtype)
    if weight.numel():
        scale = scale * _class_weight(weight, target, dtype)
    # Away from 0, since gamma - 1 may be a negative exponent in the backward.
    miss = (1 - prob).clamp(min=torch.finfo(dtype).tiny)
    return prob.clamp(min=torch.finfo(dtype).tiny), miss, scale


@extension_op
def softmax_focal_loss_forward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    r"""Write :math:`-\alpha w_t (1 - p_t)^\gamma \log p_t` into ``output``.

    Args:
        softmax: Probabilities, shape (N, C).
        target: Class indices, int64, shape (N, ); outside 0..C-1 gives 0.
        weight: Class weights, shape (C, ), or empty for none.
        output: Output, shape (N, ).
        gamma: Focusing exponent.
        alpha: Overall factor.
    """
    prob, miss, scale = _softmax_terms(softmax, target, weight)
    output.copy_(-alpha * scale * miss**gamma * prob.log())


@extension_op
def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the gradient with respect to the *logits* into ``grad_input``.

    ``buff`` (N, ) receives the derivative with respect to the log-probability
    of the target class, ``grad_input`` (N, C) that times (one-hot - softmax).
    """
    prob, miss, scale = _softmax_terms(softmax, target, weight)
    slope = gamma * miss ** (gamma - 1) * prob * prob.log() - miss**gamma
    buff.copy_(alpha * scale * slope)
    classes = torch.arange(softmax.size(1), device=softmax.device)
    one_hot = (target[:, None] == classes).to(slope.dtype)
    grad_input.copy_(
        (alpha * scale * slope)[:, None] * (one_hot - softmax.to(slope.dtype))
    )
