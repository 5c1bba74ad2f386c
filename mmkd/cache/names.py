"""What the record of an image and of one of its views is called."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

#: Where `SeededViews` leaves index and number of a view.
SEEDED = 'seeded_view'


def image_name(info: Mapping[str, Any], roots: Sequence[str]) -> str:
    """Name of an image, the same on every machine.

    Args:
        info: ``img_id`` or ``img_path`` of it, among others.
        roots: Folders that paths are named from.

    Example:
        >>> image_name(dict(img_id=3), []), image_name(
        ...     dict(img_path='/data/voc/a/b.png'), ['/data/voc/'])
        ('3', 'a/b.png')
    """
    if SEEDED in info:
        return f'#{info[SEEDED][0]}'
    if info.get('img_id') is not None:
        return str(info['img_id'])
    path = str(info['img_path'])
    for root in sorted(roots, key=len, reverse=True):
        folder = root.rstrip(os.sep) + os.sep
        if root and path.startswith(folder):
            return path[len(folder) :]
    return path


def view_name(meta: Mapping[str, Any]) -> str:
    """Name of a view of an image.

    Args:
        meta: What the data sample says of itself.

    Example:
        >>> view_name(dict(img_shape=(80, 60), flip=True, flip_direction='vertical'))
        '80x60 vertical'
    """
    if SEEDED in meta:
        return f'view {meta[SEEDED][1]}'
    height, width = meta['img_shape'][:2]
    flip = meta.get('flip_direction') if meta.get('flip') else None
    return f'{height}x{width} {flip or "as it is"}'


def record_name(image: str, view: str) -> str:
    """Name of a record."""
    return f'{image}\t{view}'


def shard_of(image: str, shards: int) -> int:
    """Number of the file that an image's views are in.

    It follows from the name alone, so that nobody needs a table of all images.
    """
    return zlib.crc32(image.encode()) % shards


def shard_name(number: int) -> str:
    """Name of a file.

    Example:
        >>> shard_name(3)
        'shard-00003.safetensors'
    """
    return f'shard-{number:05d}.safetensors'
