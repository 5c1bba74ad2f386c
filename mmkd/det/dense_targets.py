"""What MMDetection's dense heads are taught: the layouts of ``get_targets``."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import (
    AnchorHead,
    ATSSHead,
    FCOSHead,
    GFLHead,
    GuidedAnchorHead,
    LDHead,
    RPNHead,
    StageCascadeRPNHead,
)

from ..taps import HeadView

#: What `get_targets` returns in MMDetection 3: point-based heads, anchor-based
#: ones, and those (ATSS, GFL, ...) that hand the anchors on. All per level.
_LAYOUTS = {
    2: ('labels', 'box_targets'),
    5: ('labels', 'label_weights', 'box_targets', 'box_weights', 'avg_factor'),
    6: (
        'anchors',
        'labels',
        'label_weights',
        'box_targets',
        'box_weights',
        'avg_factor',
    ),
}

#: Losses that are computed on targets of these layouts.
_KNOWN_LOSSES = {
    head.loss_by_feat
    for head in (AnchorHead, RPNHead, ATSSHead, GFLHead, LDHead, FCOSHead)
}


def obstacle_of(head: Any) -> str | None:
    """Why a dense head's rows and targets cannot be distilled; ``None`` if they can."""
    name = type(head).__name__
    if isinstance(head, (GuidedAnchorHead, StageCascadeRPNHead)):
        return f'{name} predicts its anchors: those of two networks differ'
    if type(head).loss_by_feat not in _KNOWN_LOSSES:
        return f'{name} has targets and a loss of its own'
    return None


def targets_of(view: HeadView) -> dict[str, Any]:
    """The targets that a head has assigned in this step, by name.

    Args:
        view: View of the student's head, whose ``get_targets`` was recorded.

    Returns:
        Name -> what the head returned, one part per level.

    Raises:
        RuntimeError: If there are none: the teacher assigns nothing.
        ValueError: If the head's targets have a layout of their own.
    """
    if not view.calls.get('get_targets'):
        raise RuntimeError(
            f'{view.path!r} assigned no targets: they exist in the student only, '
            'after its own loss'
        )
    output = view.calls['get_targets'][0].output
    name = type(view.module).__name__
    names = _LAYOUTS.get(len(output))
    if names is None:
        raise ValueError(
            f'targets of {name} have an unknown layout of {len(output)} parts'
        )
    targets = dict(zip(names, output))
    labels = targets['labels']
    # TOOD returns five parts, too, of which the first are its anchors.
    if not isinstance(labels, (list, tuple)) or labels[0].is_floating_point():
        raise ValueError(f'targets of {name} have an unknown layout')
    return targets
