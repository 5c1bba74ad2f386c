"""MobileBERT's second phase: a masked language model with soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .precision import check_rows, check_same_shape, full_precision


@full_precision
def masked_lm_distillation(
    student: Tensor, labels: Tensor, teacher: Tensor | None = None, soft: float = 0.5
) -> Tensor:
    r"""Cross-entropy with the hidden words and what the teacher thinks of them.

    .. math::
        - \frac{1}{N} \sum_n \sum_v
            \big( (1 - \alpha) [v = y_n] + \alpha \, \mathrm{softmax}(t_n)_v \big)
            \log \mathrm{softmax}(s_n)_v

    The paper's code has a temperature, which multiplies what its teacher's head is
    given and not what that yields; there is none here.

    Reference:
        Sun et al., MobileBERT, ACL 2020, https://arxiv.org/abs/2004.02984

    Args:
        student: Logits of the hidden words, (N, V).
        labels: The words, (N,).
        teacher: Tensor of the same shape. Detached internally. The words alone if not
            given.
        soft: Share of the teacher, alpha.

    Returns:
        Scalar tensor. A differentiable zero without words.

    Raises:
        ValueError: If the shapes differ or ``soft`` is no share.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 4)
        >>> masked_lm_distillation(logits, torch.tensor([2]), logits).exp()
        tensor(4.)
    """
    check_rows(student, None)
    if not 0 <= soft <= 1:
        raise ValueError(f'soft must be from 0 to 1 but is {soft}')
    if not len(student):
        return student.sum() * 0
    hard = F.cross_entropy(student, labels)
    if teacher is None:
        return hard
    check_same_shape(student, teacher)
    rows = -(teacher.detach().softmax(1) * student.log_softmax(1)).sum(1)
    return (1 - soft) * hard + soft * rows.mean()
