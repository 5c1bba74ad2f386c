"""Losses that are tried on a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Term:
    """A loss in one place.

    Args:
        kind: Column of the table: ``'trunk'``, ``'logits'``, ``'boxes'`` or
            ``'masks'``.
        loss: Its config.
    """

    kind: str
    loss: Mapping[str, Any]

    @property
    def at(self) -> str:
        """The tapped module."""
        return self.loss['at']

    @property
    def label(self) -> str:
        """Kind, loss and place."""
        short = self.loss['type'].removeprefix('mmkd.').removesuffix('Loss')
        return f'{self.kind}: {short} at {self.at}'


def trunk_term(model: Mapping[str, Any]) -> Term:
    """Feature imitation on the neck, or on the backbone where there is none."""
    model = model.get('detector') or model
    for at in ('neck', 'backbone', 'image_encoder'):
        if model.get(at):
            return Term('trunk', dict(type='mmkd.FeatureImitationLoss', at=at))
    raise ValueError(f'{model.get("type")} has neither neck nor backbone')


def terms_for(model: Mapping[str, Any]) -> list[Term]:
    """Losses on the heads that a config names.

    Args:
        model: Config of the student.

    Example:
        >>> heads = dict(type='GFL', bbox_head=dict(type='GFLHead'))
        >>> [term.label for term in terms_for(heads)][:1]
        ['logits: SoftTarget at bbox_head']
    """
    model = model.get('detector') or model
    roi = model.get('roi_head') or {}
    # A detector of proposals alone calls its head otherwise than its config.
    rpn = 'bbox_head' if model.get('type') == 'RPN' else 'rpn_head'
    places = {
        'bbox_head': model.get('bbox_head'),
        rpn: model.get('rpn_head'),
        'roi_head.bbox_head': roi.get('bbox_head'),
        'mask_head': model.get('mask_head'),
        'semantic_head': model.get('semantic_head'),
        'panoptic_head': model.get('panoptic_head'),
        'roi_head.mask_head': roi.get('mask_head'),
        'roi_head.semantic_head': roi.get('semantic_head'),
        'decode_head': model.get('decode_head'),
    }
    return [
        Term(kind, dict(type=f'mmkd.{loss}', at=at, **options))
        for at, head in places.items()
        if head
        for kind, loss, options in _TRIED[at.rpartition('.')[2]]
        if (at, loss) not in _ELSEWHERE
    ]


#: By head. The margin is one that no teacher is better by, where the term is zero.
_TRIED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    'bbox_head': [
        ('logits', 'SoftTargetLoss', {}),
        ('logits', 'ClassificationDistillationLoss', {}),
        ('logits', 'WeightedSoftCrossEntropyLoss', dict(mu=0.5)),
        ('boxes', 'LocalizationDistillationLoss', {}),
        ('boxes', 'BoundedRegressionLoss', dict(margin=1e30)),
    ],
    'rpn_head': [
        ('logits', 'WeightedSoftCrossEntropyLoss', dict(mu=0.5)),
        ('boxes', 'BoundedRegressionLoss', dict(margin=1e30)),
    ],
    'mask_head': [('masks', 'ChannelWiseDivergenceLoss', {})],
    'semantic_head': [('masks', 'ChannelWiseDivergenceLoss', {})],
    'panoptic_head': [('masks', 'ChannelWiseDivergenceLoss', {})],
    'decode_head': [
        ('logits', 'PixelWiseLoss', {}),
        ('masks', 'PairWiseLoss', {}),
        ('masks', 'ChannelWiseDivergenceLoss', {}),
    ],
}
#: Losses of dense heads, which RoI heads have no rows for.
_ELSEWHERE = {
    ('roi_head.bbox_head', loss)
    for loss in (
        'SoftTargetLoss',
        'ClassificationDistillationLoss',
        'LocalizationDistillationLoss',
    )
}
