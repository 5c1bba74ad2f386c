"""What the host libraries say of bad data, in words that tell what to do."""

from __future__ import annotations

import re
import traceback
from typing import Any

from mmengine.dataset import BaseDataset

#: The last line of an error that was raised in a data set -> what it means. ``data``,
#: ``file`` and ``labels`` are its name, its annotation file and a sample's label map.
_MEANINGS = {
    r'AssertionError: failed to load image: (.+)': (
        'picture {0} cannot be read: it is damaged, or no picture'
    ),
    r"AttributeError: 'NoneType' object has no attribute 'squeeze'": (
        'label map {labels} cannot be read: it is damaged, or no picture'
    ),
    r'Exception: Cannot find valid image after': (
        'the pipeline of {data} rejects every picture: look at its transforms that '
        'filter or crop'
    ),
    r'ValueError: need at least one array to concatenate': (
        '{data} has no pictures: it lists none, or filter_cfg leaves out all of them '
        'because they have no object of metainfo.classes'
    ),
    r'JSONDecodeError: (.+)': '{file} is no valid JSON, it may be damaged: {0}',
    r"AssertionError: annotation file format <class '(\w+)'> not supported": (
        '{file} holds no COCO annotations but a {0}'
    ),
    r"KeyError: '(\w+)'": '{file} lacks the entry {0!r}',
    r"FileNotFoundError: \[Errno 2\] No such file or directory: '(.+)'": (
        'No such file or directory: {0}; it follows from data_root, ann_file and '
        'data_prefix of the data set, and MMKD_DATA'
    ),
}
_UNKNOWN = dict(data='the data set', file='the annotation file', labels='of a sample')


def explained(error: BaseException) -> str | None:
    """What an error that a data set raised means for the user.

    Args:
        error: As it was caught, with its traceback.

    Returns:
        One sentence; ``None`` if no data set is involved or nothing is known of it.

    Example:
        >>> class Empty(BaseDataset):
        ...     def load_data_list(self):
        ...         return []
        >>> try:
        ...     Empty(ann_file='train.json')
        ... except ValueError as error:
        ...     print(explained(error))  # doctest: +ELLIPSIS
        Empty of train.json has no pictures: it lists none, or filter_cfg leaves ...
        >>> explained(ValueError('anything else'))
    """
    lines = f'{type(error).__name__}: {error}'.strip().splitlines()
    by_a_worker = lines[0].partition(': ')[2].startswith('Caught ')
    places = _places(error)
    if not places and not by_a_worker:
        return None
    # A worker sends its traceback as text.
    text = lines[-1] if by_a_worker else lines[0]
    trace = (
        str(error) if by_a_worker else ''.join(traceback.format_tb(error.__traceback__))
    )
    if text.startswith('KeyError') and 'in transform' in trace:
        return None  # a step of the pipeline misses what another should have made
    if 'squeeze' in text and '_load_seg_map' not in trace:
        return None
    for pattern, meaning in _MEANINGS.items():
        found = re.match(pattern, text)
        if found:
            return meaning.format(*found.groups(), **{**_UNKNOWN, **places})
    return None


def _places(error: BaseException) -> dict[str, str]:
    """Which data set, annotation file and label map an error came from."""
    places: dict[str, str] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        data: Any = frame.f_locals.get('self')
        if isinstance(data, BaseDataset):
            prefix: Any = getattr(data, 'data_prefix', None) or {}
            file = getattr(data, 'ann_file', '') or prefix.get('img_path', '')
            places.update(data=f'{type(data).__name__} of {file}', file=file)
        sample = frame.f_locals.get('results')
        if isinstance(sample, dict) and sample.get('seg_map_path'):
            places['labels'] = sample['seg_map_path']
    return places
