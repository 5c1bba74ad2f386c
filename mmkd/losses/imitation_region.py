"""Where features are imitated: the regions that localization distillation compares.

Reference:
    Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022,
    https://arxiv.org/abs/2102.12252, whose repository has all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from ..batch import Batch

#: Regions that are defined by the priors or the predictions of a dense head.
OF_THE_HEAD = ('fine_grained', 'gi')
REGIONS = ('whole', 'inside_gt', 'decoupled', *OF_THE_HEAD)
#: A prior is in the fine-grained region above this share of the best prior's IoU.
FINE_GRAINED_SHARE = 0.5
GI_NMS_IOU = 0.3
GI_TOPK = 10


@torch.no_grad()
def fine_grained_region(view: Any, batch: Batch) -> list[Tensor]:
    """Positions with a prior whose IoU exceeds half of the object's best prior's.

    Args:
        view: View of the student's dense head.
        batch: The batch.

    Returns:
        Boolean mask per level, (N, 1, H, W).
    """
    priors = torch.cat(view.priors)
    inside = []
    for boxes, valid in zip(batch.gt_boxes, view.valid_priors(batch)):
        found = torch.zeros_like(valid)
        if len(boxes):
            iou = box_iou(priors[valid], boxes.to(priors)).nan_to_num(0.0)
            share = FINE_GRAINED_SHARE * iou.amax(0)
            found[valid] = (iou > share).any(1)
        inside.append(found)
    return _to_maps(view, view.to_rows(torch.stack(inside)))


@torch.no_grad()
def general_instance_region(student: Any, teacher: Any, batch: Batch) -> list[Tensor]:
    """Positions where student and teacher disagree most: general instances.

    A position's score is the largest difference of the two networks' scores of a
    class, its box the one of the network with the larger score. What remains
    after NMS (IoU 0.3), at most 10 per image and level, is the region. The
    official code lets the images of a batch suppress each other; here they do not.

    Args:
        student: View of the student's dense head.
        teacher: View of the teacher's dense head.
        batch: The batch.

    Returns:
        Boolean mask per level, (N, 1, H, W).
    """
    difference = teacher.scores - student.scores
    score, label = difference.abs().max(1)
    by_teacher = difference.gather(1, label[:, None]) > 0
    boxes = torch.where(by_teacher, teacher.expected_boxes, student.expected_boxes)
    valid = student.to_rows(torch.stack(student.valid_priors(batch)))
    valid = valid.nonzero().squeeze(1)
    images = len(student.logits[0])
    image = torch.arange(images, device=score.device)[:, None]
    image = student.to_rows(image.expand(-1, sum(map(len, student.priors))))
    group = (student.levels * images + image)[valid]
    kept = batched_nms(boxes[valid], score[valid], group, GI_NMS_IOU)
    # Sorted by score: the first ten of every group.
    member = torch.nn.functional.one_hot(group[kept])
    rank = (member.cumsum(0) * member).sum(1)
    region = torch.zeros_like(score, dtype=torch.bool)
    region[valid[kept[rank <= GI_TOPK]]] = True
    return _to_maps(student, region)


def _to_maps(view: Any, rows: Tensor) -> list[Tensor]:
    """Rows as maps; a position is selected if one of its priors is."""
    maps, images = [], len(view.logits[0])
    counts = [images * len(prior) for prior in view.priors]
    for part, (height, width) in zip(rows.split(counts), view.sizes):
        maps.append(part.reshape(images, 1, height, width, -1).any(-1))
    return maps
