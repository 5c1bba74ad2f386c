"""The valuable localization region (VLR) of localization distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou


@torch.no_grad()
def valuable_localization_region(
    priors: Tensor,
    num_level_priors: Sequence[int],
    gt_boxes: Tensor,
    topk: int = 9,
    gamma: float = 0.25,
) -> tuple[Tensor, Tensor]:
    r"""Where a box is worth imitating although it is no positive, for one image.

    A prior is in the region of an object if

    .. math:: \gamma \alpha_{pos} \le \mathrm{DIoU} < \alpha_{pos}

    where :math:`\alpha_{pos}` is ATSS's threshold of that object, mean + standard
    deviation of the IoU of its candidates: on every level the ``topk`` priors with
    the nearest centres. Positives may be in it; the losses take them out.

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR
        2022, https://arxiv.org/abs/2102.12252

    Args:
        priors: Prior boxes x1, y1, x2, y2 of all levels in pixels, shape (P, 4).
        num_level_priors: Number of priors of every level; sums to P.
        gt_boxes: Boxes of the image's objects in the same pixels, shape (G, 4).
        topk: Candidates per level.
        gamma: :math:`\gamma`, lower end of the region relative to its upper one.

    Returns:
        Boolean mask of the region, shape (P,), and the weights, shape (P,): IoU with
        the object of largest IoU among those whose region holds the prior, 0
        outside. Without objects the region is empty.

    Raises:
        ValueError: If a shape or the number of priors does not fit.

    Example:
        >>> priors = torch.tensor([[0., 0, 8, 8], [4, 0, 12, 8], [9, 0, 17, 8]])
        >>> box = torch.tensor([[0., 0, 8, 8]])
        >>> valuable_localization_region(priors, [3], box)
        (tensor([False,  True, False]), tensor([0.0000, 0.3333, 0.0000]))
    """
    for name, boxes in (('priors', priors), ('gt_boxes', gt_boxes)):
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f'{name} must have shape (N, 4) but has {tuple(boxes.shape)}'
            )
    if sum(num_level_priors) != len(priors):
        raise ValueError(
            f'num_level_priors must sum to the number of priors, {len(priors)}, but '
            f'sums to {sum(num_level_priors)}'
        )
    if not len(priors) or not len(gt_boxes):
        return priors.new_zeros(len(priors), dtype=torch.bool), priors.new_zeros(
            len(priors)
        )
    # Two boxes without an area have no IoU.
    iou = box_iou(priors, gt_boxes).nan_to_num(0.0)
    distance = _distances(priors, gt_boxes)
    diou = iou - distance / _diagonals(priors, gt_boxes)
    overlaps = iou.gather(0, _candidates(distance.sqrt(), num_level_priors, topk))
    # The deviation of a single candidate is 0, not undefined.
    deviation = overlaps.std(0) if len(overlaps) > 1 else torch.zeros_like(overlaps[0])
    alpha_pos = overlaps.mean(0) + deviation
    inside = (diou >= gamma * alpha_pos) & (diou < alpha_pos)
    return inside.any(1), iou.masked_fill(~inside, 0.0).amax(1)


def _distances(priors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Squared distances of the centres, shape (P, G)."""
    ours = (priors[:, :2] + priors[:, 2:]) / 2
    theirs = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    offset_x = ours[:, None, 0] - theirs[None, :, 0]
    offset_y = ours[:, None, 1] - theirs[None, :, 1]
    return offset_x.square() + offset_y.square()


def _diagonals(priors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Squared diagonals of the boxes around both, shape (P, G); never 0."""
    first = torch.minimum(priors[:, None, :2], gt_boxes[None, :, :2])
    last = torch.maximum(priors[:, None, 2:], gt_boxes[None, :, 2:])
    return (last - first).square().sum(2) + 1e-7


def _candidates(
    distances: Tensor, num_level_priors: Sequence[int], topk: int
) -> Tensor:
    """Rows of the nearest priors of every level, shape (candidates, G)."""
    found, start = [], 0
    for level in distances.split(list(num_level_priors)):
        nearest = level.topk(min(topk, len(level)), dim=0, largest=False).indices
        found.append(nearest + start)
        start += len(level)
    return torch.cat(found)
