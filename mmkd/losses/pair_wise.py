"""Structured knowledge distillation, pair-wise: similarities between places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .base import DistillLoss
from .precision import check_mask, full_precision
from .score_maps import check_maps, paired_features

POOLS = ('avg', 'max')
EPS = 1e-8  # norms that count as zero


@full_precision
def pair_wise_loss(
    student: Tensor,
    teacher: Tensor,
    pool: str = 'avg',
    kernel: int | float | Sequence[int] = 2,
    mask: Tensor | None = None,
    detach_norms: bool = False,
) -> Tensor:
    r"""Mean squared difference of the affinities of all pairs of nodes.

    .. math::
        \frac{1}{N M^2} \sum_n \sum_{i,j} (a^s_{nij} - a^t_{nij})^2, \qquad
        a_{ij} = \frac{f_i^\top f_j}{\|f_i\| \|f_j\|}

    over the M nodes into which a map is pooled. Pairs of a node with itself count, as
    in the authors' codes; they add nothing.

    Reference:
        Liu et al., Structured Knowledge Distillation for Semantic Segmentation,
        CVPR 2019, https://arxiv.org/abs/1903.04197

    Args:
        student: Features, shape (N, D, H, W).
        teacher: Features of the same images, shape (N, D', H', W'). Where the sizes
            differ, each side of the larger map is first brought to that of the
            smaller one by adaptive average pooling. Detached internally.
        pool: ``'avg'`` or ``'max'``.
        kernel: Size and stride of the pooling in cells: a number, (height, width),
            or, below 1, the share of the map's sides (the authors' later code: 0.5).
            Nodes at the lower and right edge may be smaller (ceil mode).
        mask: Cells that count, boolean, shape (N, 1, H, W) of the smaller map; all
            of them if not given. A node counts if a cell in it does, and is pooled
            from those alone; the mean is over the pairs of such nodes of all images.
        detach_norms: Treat the norms as constants, as the authors' later code does:
            the value is the same, the gradient has a radial part.

    Returns:
        Scalar tensor. A differentiable zero without nodes.

    Raises:
        ValueError: If these are no maps of the same images, or ``pool`` or
            ``kernel`` are not as above.

    Example:
        >>> s = torch.tensor([[[[1., 0.]], [[0., 1.]]]])  # at right angles
        >>> t = torch.ones(1, 3, 1, 2)  # parallel
        >>> pair_wise_loss(s, t, kernel=1)
        tensor(0.5000)
    """
    if student.dim() != 4 or teacher.dim() != 4 or len(student) != len(teacher):
        raise ValueError(
            'features must have shape (N, D, H, W) with the same N but have '
            f'{tuple(student.shape)} and {tuple(teacher.shape)}'
        )
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:]))
    size = (height, width)
    maps = [_shrunk(x, size) for x in (student, teacher.detach())]
    if mask is not None:
        check_mask(mask, maps[0])
    if not maps[0].numel() or not maps[1].numel():
        return student.sum() * 0
    window = _window(kernel, size)
    nodes = [_pooled(x, pool, window, mask) for x in maps]
    ours, theirs = (_affinity(x, detach_norms) for x in nodes)
    squares = (ours - theirs).square()
    if mask is None:
        return squares.mean()
    counts = F.max_pool2d(mask.float(), window, window, ceil_mode=True).flatten(1)
    pairs = counts[:, :, None] * counts[:, None, :]
    return (squares * pairs).sum() / pairs.sum().clamp(min=1)


def _shrunk(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def _window(kernel: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a node in cells, no larger than the map."""
    check_kernel(kernel)
    if isinstance(kernel, (int, float)):
        sides = [int(side * kernel) for side in size] if kernel < 1 else [kernel] * 2
    else:
        sides = list(kernel)
    height, width = (max(1, min(int(k), side)) for k, side in zip(sides, size))
    return height, width


def _pooled(
    x: Tensor, pool: str, window: tuple[int, int], mask: Tensor | None
) -> Tensor:
    """Nodes, shape (N, D, M)."""
    if pool == 'avg':
        # A masked mean up to a factor, which affinities do not see.
        x = x if mask is None else x.masked_fill(~mask, 0)
        return F.avg_pool2d(x, window, window, ceil_mode=True).flatten(2)
    if pool != 'max':
        raise ValueError(f'pool must be one of {POOLS} but is {pool!r}')
    if mask is None:
        return F.max_pool2d(x, window, window, ceil_mode=True).flatten(2)
    lowest = torch.finfo(x.dtype).min
    nodes = F.max_pool2d(x.masked_fill(~mask, lowest), window, window, ceil_mode=True)
    return nodes.masked_fill(nodes == lowest, 0).flatten(2)


def _affinity(nodes: Tensor, detach_norms: bool) -> Tensor:
    """Cosine of every pair of nodes, (N, M, M)."""
    norms = torch.linalg.vector_norm(nodes, dim=1, keepdim=True)
    # Features of zero have no direction; dividing them by nearly nothing would give
    # them nearly infinite gradients.
    norms = torch.where(norms > EPS, norms, 1.0)
    unit = nodes / (norms.detach() if detach_norms else norms)
    return unit.transpose(1, 2) @ unit


def check_kernel(kernel: Any) -> None:
    """Raise ``ValueError`` unless it is a pooling window of :func:`pair_wise_loss`."""
    if isinstance(kernel, (int, float)) and not isinstance(kernel, bool):
        fits = 0 < kernel < 1 or (kernel >= 1 and float(kernel).is_integer())
    else:
        fits = (
            isinstance(kernel, Sequence)
            and len(kernel) == 2
            and all(isinstance(side, int) and side >= 1 for side in kernel)
        )
    if not fits:
        raise ValueError(
            'kernel must be an integer >= 1, two of them, or a share below 1 but is '
            f'{kernel!r}'
        )


@MODELS.register_module()
class PairWiseLoss(DistillLoss):
    """:func:`pair_wise_loss` on what the decode head classifies.

    The features are the input of ``conv_seg``, before its dropout; those of any other
    module may be tapped, too. They may differ in width and size; no adapter is
    needed. Nodes that are padding only are left out. Levels of a tap are averaged. Of
    several decode heads the last one counts.

    Args:
        at: Decode head of the student, or a module that yields feature maps.
        loss_weight: Factor of the term; the paper's 10 if not given.
        pool: ``'avg'`` or ``'max'``.
        kernel: See :func:`pair_wise_loss`. Time and memory grow with the fourth power
            of 1 / kernel.
        detach_norms: See :func:`pair_wise_loss`.
        teacher_at: The same in the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: taps that yield no maps, or a head
            without ``conv_seg``.

    Example:
        >>> loss = PairWiseLoss(loss_weight=2.0, kernel=1)
        >>> s = torch.tensor([[[[1., 0.]], [[0., 1.]]]])
        >>> loss(s, torch.ones(1, 3, 1, 2))
        tensor(1.0000)
    """

    def __init__(
        self,
        at: str = 'decode_head',
        loss_weight: float = 10.0,
        pool: str = 'avg',
        kernel: int | float | Sequence[int] = 2,
        detach_norms: bool = False,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        if pool not in POOLS:
            raise ValueError(f'pool must be one of {POOLS} but is {pool!r}')
        check_kernel(kernel)
        self.pool = pool
        self.kernel = kernel
        self.detach_norms = detach_norms

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, pool={self.pool!r}, kernel={self.kernel}'

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is None or teacher is None:
            return
        pairs = paired_features(student, teacher)
        check_maps(pairs, self.at, self.teacher_at)

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = []
        for s, t in paired_features(student, teacher):
            smaller = s[:, :, : t.shape[2], : t.shape[3]]
            mask = batch.valid_mask(smaller) if batch is not None else None
            terms.append(
                pair_wise_loss(s, t, self.pool, self.kernel, mask, self.detach_norms)
            )
        return sum(terms) / len(terms)  # type: ignore[return-value]
