"""What the digits data set is made of: scanned digits and photographs.

Both come inside the wheels of scikit-learn and scikit-image, so nothing is
downloaded. Every source is divided once and for all into a training part and a
validation part, which share no digit and no pixel of a photograph.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SPLITS = ('train', 'val')
CLASSES = tuple('0123456789')

SKLEARN_PHOTOS = ('china.jpg', 'flower.jpg')
SKIMAGE_PHOTOS = (
    'brick',
    'camera',
    'chelsea',
    'coffee',
    'coins',
    'grass',
    'gravel',
    'hubble_deep_field',
    'moon',
    'rocket',
)

_NUM_VAL_DIGITS = 450
_TRAIN_WIDTH = 0.65  # of a photo's columns, from the left


@lru_cache(maxsize=1)
def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn.

    Returns:
        Ink in [0, 1], shape (1797, 8, 8), float32, and the digit 0-9 of each,
        shape (1797, ).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)


@lru_cache(maxsize=1)
def load_photos() -> dict[str, np.ndarray]:
    """The photographs by name, each RGB, shape (H, W, 3), uint8."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = {name: load_sample_image(name) for name in SKLEARN_PHOTOS}
    photos.update((name, getattr(data, name)()) for name in SKIMAGE_PHOTOS)
    return {
        name: photo if photo.ndim == 3 else np.stack([photo] * 3, axis=-1)
        for name, photo in photos.items()
    }


def scan_indices(split: str) -> np.ndarray:
    """Indices of the digits that belong to a split.

    Validation gets the last quarter of the file as it stands. It is ordered by
    writer, so that most of its handwriting is new and not only its digits.

    Args:
        split: ``'train'`` or ``'val'``.

    Example:
        >>> len(scan_indices('train')), len(scan_indices('val'))
        (1347, 450)
    """
    indices = np.arange(len(load_scans()[0]))
    return (
        indices[:-_NUM_VAL_DIGITS] if split == 'train' else indices[-_NUM_VAL_DIGITS:]
    )


def photo_columns(width: int, split: str) -> tuple[int, int]:
    """First and one past the last column of a photo that belong to a split.

    Args:
        width: Width of the photo in pixels.
        split: ``'train'`` (the left part) or ``'val'`` (the right part).

    Example:
        >>> photo_columns(400, 'train'), photo_columns(400, 'val')
        ((0, 260), (260, 400))
    """
    border = int(width * _TRAIN_WIDTH)
    return (0, border) if split == 'train' else (border, width)
