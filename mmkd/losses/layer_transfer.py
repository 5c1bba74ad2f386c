"""MobileBERT: what a layer of a text encoder is taught by that of another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .precision import check_same_shape, full_precision

#: Of the normalisation before features are compared.
EPS = 1e-5
#: Score of a pair that is not valid: its probability is 0, in float32, too.
LOWEST = -1e9


@full_precision
def feature_map_transfer(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Squared difference of two layers' outputs, each token's features normalised.

    .. math::
        \frac{1}{|V| C} \sum_{v \in V} \sum_c
            \big( LN(h^s_v)_c - LN(h^t_v)_c \big)^2

    over the valid tokens V, with a layer normalisation that has no weights. The paper's
    factor, 100 in its code, is left to the caller.

    Reference:
        Sun et al., MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited
        Devices, ACL 2020, https://arxiv.org/abs/2004.02984

    Args:
        student: Output of a layer, (B, T, C).
        teacher: Tensor of the same shape. Detached internally.
        mask: Valid tokens, (B, T); all if not given.

    Returns:
        Scalar tensor. A differentiable zero without valid tokens.

    Raises:
        ValueError: If the shapes differ or do not belong together.

    Example:
        >>> import torch
        >>> t = torch.tensor([[[1.0, 2.0, 3.0], [9.0, 9.0, 0.0]]])
        >>> feature_map_transfer(2 * t + 1, t).item() < 1e-6
        True
        >>> feature_map_transfer(-t, t, mask=torch.tensor([[True, False]]))
        tensor(3.9999)
    """
    s, t = _valid_tokens(student, teacher, mask)
    s, t = (F.layer_norm(x, x.shape[-1:], eps=EPS) for x in (s, t))
    return _mean_over(F.mse_loss(s, t, reduction='none').mean(-1), mask)


@full_precision
def mean_transfer(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Squared difference of the means over the features, averaged over the tokens.

    What the normalisation of :func:`feature_map_transfer` takes away. The paper's code
    compares with the stack of all layers of the teacher; this is one layer with one.

    Args:
        student: Output of a layer, (B, T, C).
        teacher: Tensor of the same shape. Detached internally.
        mask: Valid tokens, (B, T); all if not given.

    Returns:
        Scalar tensor, without the factor of the paper's code, 5000. A differentiable
        zero without valid tokens.

    Raises:
        ValueError: If the shapes differ or do not belong together.

    Example:
        >>> import torch
        >>> t = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> mean_transfer(t + 2, t)
        tensor(4.)
    """
    s, t = _valid_tokens(student, teacher, mask)
    return _mean_over((s.mean(-1) - t.mean(-1)).square(), mask)


@full_precision
def variance_transfer(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Absolute difference of the variances of the features, averaged over the tokens.

    See :func:`mean_transfer`. The variance is the biased one, divided by C.

    Args:
        student: Output of a layer, (B, T, C).
        teacher: Tensor of the same shape. Detached internally.
        mask: Valid tokens, (B, T); all if not given.

    Returns:
        Scalar tensor, without the factor of the paper's code, 5. A differentiable zero
        without valid tokens.

    Raises:
        ValueError: If the shapes differ or do not belong together.

    Example:
        >>> import torch
        >>> t = torch.tensor([[[-1.0, 1.0]]])
        >>> variance_transfer(3 * t, t)
        tensor(8.)
    """
    s, t = _valid_tokens(student, teacher, mask)
    difference = s.var(-1, unbiased=False) - t.var(-1, unbiased=False)
    return _mean_over(difference.abs(), mask)


@full_precision
def attention_transfer(
    student_scores: Tensor, teacher_scores: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy between the attention of two layers, head by head.

    .. math::
        - \frac{1}{H |Q|} \sum_{h, q \in Q} \sum_k
            \mathrm{softmax}(a^t_{hq})_k \log \mathrm{softmax}(a^s_{hq})_k

    over the queries Q that see a key at all, all pictures or sentences of the batch
    together; keys that a query does not see take no part in its distributions.

    Reference:
        Sun et al., MobileBERT, ACL 2020, https://arxiv.org/abs/2004.02984

    Args:
        student_scores: What the softmax of its attention is taken of, (B, H, T, T),
            queries before keys. Taken as it is given: not scaled here.
        teacher_scores: Tensor of the same shape. Detached internally.
        mask: Valid tokens, (B, T), or valid pairs of a query and a key, (B, T, T); all
            if not given. Whatever is added to the scores to mask them may be left in.

    Returns:
        Scalar tensor. A differentiable zero without valid queries.

    Raises:
        ValueError: If the shapes differ or do not belong together.

    Example:
        >>> import torch
        >>> scores = torch.zeros(1, 2, 4, 4)
        >>> attention_transfer(scores, scores).exp()
        tensor(4.)
        >>> valid = torch.tensor([[True, True, False, False]])
        >>> attention_transfer(scores, scores, valid).exp()
        tensor(2.)
    """
    check_same_shape(student_scores, teacher_scores)
    if student_scores.dim() != 4 or student_scores.shape[-1] != student_scores.shape[2]:
        raise ValueError(
            'scores must have shape (B, H, T, T) but have '
            f'{tuple(student_scores.shape)}'
        )
    s, t = student_scores, teacher_scores.detach()
    queries = None
    if mask is not None:
        pairs = _pairs(mask, s)[:, None]
        queries = pairs.any(-1).expand(s.shape[:3])
        # Not minus infinity: a query that sees nothing would have no distribution.
        s, t = (x.masked_fill(~pairs, LOWEST) for x in (s, t))
    probability, logarithm = t.softmax(-1), s.log_softmax(-1)
    # What neither sees may be minus infinity, and times 0 that is not 0.
    rows = (probability * logarithm).masked_fill(probability == 0, 0).sum(-1)
    return -_mean_over(rows, queries)


def _pairs(mask: Tensor, scores: Tensor) -> Tensor:
    """Valid pairs, (B, T, T)."""
    batch, _, tokens, _ = scores.shape
    if tuple(mask.shape) == (batch, tokens):
        valid = mask.bool()
        return valid[:, :, None] & valid[:, None, :]
    if tuple(mask.shape) == (batch, tokens, tokens):
        return mask.bool()
    raise ValueError(
        f'mask must have shape {(batch, tokens)} or {(batch, tokens, tokens)} but has '
        f'{tuple(mask.shape)}'
    )


def _mean_over(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the valid values."""
    if mask is None:
        return values.mean() if values.numel() else values.sum()
    valid = mask.bool()
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def _valid_tokens(
    student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both with 0 in the place of invalid tokens, the teacher detached."""
    check_same_shape(student, teacher)
    if student.dim() != 3:
        raise ValueError(
            f'features must have shape (B, T, C) but have {tuple(student.shape)}'
        )
    if mask is None:
        return student, teacher.detach()
    if mask.shape != student.shape[:2]:
        raise ValueError(
            f'mask must have shape {tuple(student.shape[:2])} but has '
            f'{tuple(mask.shape)}'
        )
    # What padding holds must not matter: infinity times 0 is NaN, in the gradient, too.
    padding = ~mask.bool()[..., None]
    return student.masked_fill(padding, 0), teacher.detach().masked_fill(padding, 0)
