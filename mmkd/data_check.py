"""Whether the labels of the data are classes of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

#: Heads whose outputs are the classes of the data; an auxiliary head's may be others.
_HEADS = re.compile(r'((roi_head\.)?bbox_head|decode_head)(\.\d+)?')


def classes_of(dataset: Any) -> Sequence[str] | None:
    """Names of a data set's classes, if it has them.

    Args:
        dataset: Any data set; one that joins several has a list of what they say.

    Example:
        >>> from types import SimpleNamespace
        >>> parts = [dict(classes=('cat',), year=2007), dict(classes=('cat',))]
        >>> classes_of(SimpleNamespace(metainfo=parts))
        ('cat',)
    """
    meta = getattr(dataset, 'metainfo', None) or {}
    if isinstance(meta, (list, tuple)):
        found = [part.get('classes') for part in meta]
        return found[0] if all(names == found[0] for names in found) else None
    return meta.get('classes')


def check_class_count(model: nn.Module, classes: Sequence[str] | None) -> None:
    """Raise ``ValueError`` if the data has more classes than a box head.

    Args:
        model: A detector or segmentor.
        classes: Names of the classes of the training data, if known.

    Example:
        >>> model = nn.ModuleDict(dict(bbox_head=nn.Identity()))
        >>> model['bbox_head'].num_classes = 1
        >>> check_class_count(model, ('cat', 'dog'))
        Traceback (most recent call last):
        ValueError: bbox_head has num_classes=1 but the data has 2 classes: cat, dog...
    """
    if hasattr(model, 'language_model'):  # its heads score the words of a text
        return
    for path, head in _heads(model):
        # Label maps may hold fewer classes than their data set has names.
        if 'bbox' in path and classes and len(classes) > head.num_classes:
            raise ValueError(
                f'{path} has num_classes={head.num_classes} but the data has '
                f'{len(classes)} classes: {_listed(classes)}; make num_classes of '
                'every head and metainfo.classes of the data agree'
            )


def check_labels(model: nn.Module, samples: Any) -> None:
    """Raise ``ValueError`` if a label is no class of a head.

    On a GPU a label too large ends the process without saying why.

    Args:
        model: A detector or segmentor.
        samples: Data samples of a batch as they come from the loader.
    """
    for path, head in _heads(model):
        for sample in samples or ():
            largest = _largest_label(sample, head)
            if largest >= head.num_classes:
                raise ValueError(
                    f'label {largest} of {_name(sample)} is no class: {path} has '
                    f'num_classes={head.num_classes} and labels count from 0'
                )


def _heads(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if not _HEADS.fullmatch(path) or getattr(module, 'out_channels', 0) == 1:
            continue  # a single score per pixel knows two labels
        if isinstance(getattr(module, 'num_classes', None), int):
            yield path, module


def _largest_label(sample: Any, head: Any) -> int:
    """-1 where a sample has none."""
    labels = getattr(getattr(sample, 'gt_instances', None), 'labels', None)
    if labels is None:
        labels = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
        ignored = getattr(head, 'ignore_index', None)
        if labels is not None and labels.numel() and ignored is not None:
            largest = int(labels.max())
            if largest < head.num_classes:  # the usual case, without a copy
                return largest
            labels = labels.masked_fill(labels == ignored, -1)
    return -1 if labels is None or not labels.numel() else int(labels.max())


def _name(sample: Any) -> str:
    return str(
        getattr(sample, 'seg_map_path', None)
        or getattr(sample, 'img_path', None)
        or 'a sample'
    )


def _listed(names: Sequence[str], limit: int = 12) -> str:
    return ', '.join(map(str, names[:limit])) + (', ...' if len(names) > limit else '')
