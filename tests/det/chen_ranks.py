"""Chen et al.'s terms in one of two processes; started by ``test_terms_ddp.py``.

Also the small two-stage models and batches that the tests of these terms use.
"""

from __future__ import annotations

import copy
import sys

import torch
from ld_ranks import batch
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import TASK_UTILS
from term_ranks import run_rank
from tiny_models import FASTER_RCNN, build, tiny_two_stage

from mmkd.det import DistillDetector

SOFT, BOUNDED = 'mmkd.WeightedSoftCrossEntropyLoss', 'mmkd.BoundedRegressionLoss'
RPN, RCN = 'rpn_head', 'roi_head.bbox_head'
TERMS = dict(
    loss_soft_rpn=dict(type=SOFT, at=RPN),
    loss_soft_rcn=dict(type=SOFT, at=RCN),
    loss_bound_rpn=dict(type=BOUNDED, at=RPN, margin=0.01),
    loss_bound_rcn=dict(type=BOUNDED, at=RCN, margin=0.01),
)
FASTER = FASTER_RCNN
CASCADE = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'
MASK = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
CASCADE_MASK = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
RETINA = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@TASK_UTILS.register_module(force=True)
class FirstSampler(RandomSampler):
    """The first candidates in the place of random ones."""

    def random_choice(self, gallery, num):
        return gallery[:num]


def two_stage(
    name: str = FASTER, width: int = 16, seed: int = 0, classes: int = 3, **box_head
):
    """A small stock two-stage detector whose heads predict something."""
    cfg = tiny_two_stage(width, name, classes, **box_head)
    return roughened(build(cfg.model, 'mmdet', seed), seed)


def roughened(model, seed: int, scale: float = 0.1):
    """The model with heads that predict something: random weights in them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'head' in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * scale)
    return model


def distilled(student, teacher, losses=TERMS, **options):
    """Copies of both, with the terms, every one with these options."""
    losses = {name: {**cfg, **options} for name, cfg in losses.items()}
    return DistillDetector(copy.deepcopy(student), copy.deepcopy(teacher), losses)


def models():
    """Student and teacher of the two processes, and of the one."""
    student, teacher = two_stage(seed=1), two_stage(width=24, seed=2)
    for heads in (student.rpn_head, student.roi_head):
        sampler = 'sampler' if heads is student.rpn_head else 'bbox_sampler'
        old = getattr(heads, sampler)
        # More than there are proposals: the number of RoIs differs between ranks.
        first = FirstSampler(max(old.num, 64), old.pos_fraction)
        first.add_gt_as_proposals = old.add_gt_as_proposals
        setattr(heads, sampler, first)
    return distilled(student, teacher)


#: Terms that are zero without objects.
NEED_OBJECTS = {name for name, term in TERMS.items() if term['type'] == BOUNDED}

#: Two images per rank, of one padded size.
BATCHES = dict(
    objects=[batch(seed=3), batch(((128, 128), (96, 128)), seed=5)],
    none_on_a_rank=[batch(seed=3), batch(((128, 128), (96, 128)), without=(0, 1))],
)


if __name__ == '__main__':
    run_rank(sys.modules[__name__])
