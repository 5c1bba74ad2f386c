"""Which dense heads take their targets from the labels alone, and by what rule."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import AnchorHead, ATSSHead, FCOSHead, GFLHead
from mmdet.models.task_modules.assigners import ATSSAssigner, MaxIoUAssigner
from mmdet.models.task_modules.samplers import PseudoSampler

from .dense_targets import obstacle_of

#: Assigners that look at boxes and anchors only. Others, which look at what the
#: student predicts (SimOTA, TaskAligned, ...), assign differently in every step.
_STATIC = (ATSSAssigner, MaxIoUAssigner)
#: Methods that compute targets of these.
_STOCK = {
    name: {getattr(head, name) for head in (AnchorHead, ATSSHead, FCOSHead, GFLHead)}
    for name in ('get_targets', '_get_targets_single')
}
_FCOS = ('regress_ranges', 'center_sampling', 'center_sample_radius')


def row_rule(head: Any) -> dict[str, Any]:
    """What decides which priors of a dense head are positive.

    Args:
        head: The student's.

    Returns:
        Numbers and names: priors and assigner.

    Raises:
        ValueError: If it is not decided by boxes and image sizes alone.
    """
    name = type(head).__name__
    assigner = getattr(head, 'assigner', None)
    if assigner is not None:
        _check_assigner(name, assigner)
        sampler = getattr(head, 'sampler', None)
        if type(sampler) is not PseudoSampler:
            raise ValueError(
                f'{name} draws its positives by {type(sampler).__name__}, others in '
                'every step, so that nothing can be computed before; use a live teacher'
            )
    obstacle = obstacle_of(head)
    own = [
        method
        for method, known in _STOCK.items()
        if getattr(type(head), method, None) not in known
    ]
    if obstacle or own or (assigner is None and not isinstance(head, FCOSHead)):
        raise ValueError(
            f'{obstacle or name + " assigns targets in a way of its own"}, and a cache '
            'is for heads whose positives depend on labels alone: ATSS, GFL, FCOS and '
            'RetinaNet; use a live teacher'
        )
    return _described(head)


def _check_assigner(name: str, assigner: Any) -> None:
    kind = type(assigner).__name__
    reason = ''
    if type(assigner) not in _STATIC:
        reason = f'{kind}, which looks at what the student predicts or is not known'
    elif getattr(assigner, 'alpha', None) is not None:
        reason = f'{kind} with alpha, which looks at what the student predicts'
    elif getattr(assigner, 'perm_repeat_gt_cfg', None) is not None:
        reason = f'{kind} with perm_repeat_gt_cfg, which draws random numbers'
    if reason:
        raise ValueError(
            f'the positives of {name} are chosen by {reason}: a cache is for '
            'assigners that look at boxes alone, ATSSAssigner without alpha and '
            'MaxIoUAssigner; use a live teacher'
        )


def _described(head: Any) -> dict[str, Any]:
    generator = head.prior_generator
    anchors = getattr(generator, 'base_anchors', None)
    found = dict(
        type=type(head).__name__,
        classes=head.num_classes,
        strides=[list(stride) for stride in generator.strides],
        anchors=None if anchors is None else [base.tolist() for base in anchors],
        offset=getattr(generator, 'offset', None)
        or getattr(generator, 'center_offset', None),
        train_cfg=dict(head.train_cfg or {}),
        # Of its label weights, as FCOS has none.
        counts_padding=isinstance(head, FCOSHead),
    )
    if isinstance(head, FCOSHead):
        found.update({name: getattr(head, name) for name in _FCOS})
    return found
