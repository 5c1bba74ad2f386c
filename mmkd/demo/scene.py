"""Composes one picture: a crop of a photograph, clutter, and digits."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .sources import load_photos, load_scans, photo_columns, scan_indices

_HEIGHTS = (0.2, 0.48)  # of a digit, relative to the side of the picture
_DIMMING = 0.6  # of the photo, so that ink can always be lighter
_CONTRASTS = (50, 140)  # grey levels by which ink is lighter than what is behind it
_MAX_OVERLAP = 0.15  # of two digits' boxes, relative to the smaller box
_INK, _FAINT = 0.35, 0.12  # alpha from which a pixel is digit, or undecided
_ATTEMPTS = 20


@dataclass
class PlacedDigit:
    """One digit: class, index of its scan, and its visible pixels, (size, size)."""

    label: int
    scan: int
    mask: np.ndarray


@dataclass
class Scene:
    """A picture, its digits and where its background comes from.

    ``image`` is RGB, (size, size, 3), uint8; ``undecided`` marks the soft rims of
    the digits, (size, size), bool; ``crop`` is x, y, width, height in ``photo``.
    """

    image: np.ndarray
    undecided: np.ndarray
    digits: list[PlacedDigit]
    photo: str
    crop: tuple[int, int, int, int]


def compose_scene(rng: np.random.Generator, split: str, size: int) -> Scene:
    """Draw a random picture of a split.

    Args:
        rng: The only source of randomness.
        split: ``'train'`` or ``'val'``: whose digits and photo regions to use.
        size: Side of the picture in pixels.
    """
    image, photo, crop = _background(rng, split, size)
    for _ in range(rng.integers(1, 5)):
        image = _blend(image, _squiggle(rng, size), _ink_colour(rng, image, None))
    undecided = np.zeros((size, size), bool)
    digits: list[PlacedDigit] = []
    indices = scan_indices(split)
    for _ in range(rng.integers(3, 8)):
        scan = int(rng.choice(indices))
        alpha = _place(rng, scan, size, digits)
        if alpha is None:
            continue
        ink = alpha > _INK
        colour = _ink_colour(rng, image, ink)
        image = _blend(image, alpha * rng.uniform(0.75, 1), colour)
        for digit in digits:
            digit.mask &= ~ink
        undecided = (undecided & ~ink) | ((alpha > _FAINT) & ~ink)
        label = int(load_scans()[1][scan])
        digits.append(PlacedDigit(label, scan, ink))
    noise = rng.normal(0, rng.uniform(1, 6), image.shape)
    image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    return Scene(image, undecided, digits, photo, crop)


def _background(
    rng: np.random.Generator, split: str, size: int
) -> tuple[np.ndarray, str, tuple[int, int, int, int]]:
    """A square crop from the split's part of a random photo, scaled to ``size``."""
    photos = load_photos()
    name = list(photos)[rng.integers(len(photos))]
    height, width = photos[name].shape[:2]
    left, right = photo_columns(width, split)
    largest = min(height, right - left)
    side = int(rng.uniform(0.5, 1) * min(largest, 1.5 * size))
    x = int(rng.integers(left, right - side + 1))
    y = int(rng.integers(0, height - side + 1))
    crop = photos[name][y : y + side, x : x + side]
    shrinks = side > size
    crop = cv2.resize(
        crop,
        (size, size),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return _DIMMING * crop.astype(np.float32), name, (x, y, side, side)


def _squiggle(rng: np.random.Generator, size: int) -> np.ndarray:
    """Alpha of a pen stroke that is no digit, shape (size, size)."""
    steps = rng.normal(0, 0.12 * size, (int(rng.integers(2, 5)), 2))
    points = np.cumsum(np.vstack([rng.uniform(0, size, (1, 2)), steps]), axis=0)
    alpha = np.zeros((size, size), np.uint8)
    cv2.polylines(
        alpha,
        [np.rint(points).astype(np.int32)],
        False,
        255,
        int(rng.integers(1, 5)),
        cv2.LINE_AA,
    )
    return alpha.astype(np.float32) / 255 * rng.uniform(0.4, 1)


def _place(
    rng: np.random.Generator, scan: int, size: int, digits: list[PlacedDigit]
) -> np.ndarray | None:
    """Alpha of a digit where it hides little of the others, None if none is found."""
    for _ in range(_ATTEMPTS):
        alpha = _warp_scan(rng, load_scans()[0][scan], size)
        ink = alpha > _INK
        rim = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        if rim.any() or not ink.any():
            continue
        if all(_overlap(digit.mask, ink) <= _MAX_OVERLAP for digit in digits):
            return alpha
    return None


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection of the boxes of two masks over the area of the smaller box."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = mask_box(first), mask_box(second)
    width = min(x1 + w1, x2 + w2) - max(x1, x2)
    height = min(y1 + h1, y2 + h2) - max(y1, y2)
    return max(width, 0) * max(height, 0) / min(w1 * h1, w2 * h2)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box x, y, width, height of a mask that is not empty.

    Example:
        >>> mask_box(np.array([[0, 0, 0], [0, 1, 1]]))
        (1, 1, 2, 1)
    """
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y


def _warp_scan(rng: np.random.Generator, ink: np.ndarray, size: int) -> np.ndarray:
    """Scale, turn, slant and move an 8x8 scan onto an empty picture."""
    height = size * np.exp(rng.uniform(*np.log(_HEIGHTS)))
    turn, slant = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    scale = height / 8 * np.array([rng.uniform(0.85, 1.15), 1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[1, slant], [0, 1]]) @ np.diag(scale)
    centre = rng.uniform(0.4 * height, size - 0.4 * height, 2)
    # A rim of empty pixels, so that interpolation fades out at the scan's edge.
    padded = np.pad(ink, 2)
    offset = centre - linear @ np.full(2, (padded.shape[0] - 1) / 2)
    warped = cv2.warpAffine(
        padded, np.column_stack([linear, offset]), (size, size), flags=cv2.INTER_CUBIC
    )
    return np.clip(1.3 * warped - 0.1, 0, 1)


def _ink_colour(
    rng: np.random.Generator, image: np.ndarray, where: np.ndarray | None
) -> np.ndarray:
    """A tinted colour that is lighter than the image is at ``where`` on average."""
    behind = image[where].mean() if where is not None else image.mean()
    tint = rng.normal(0, 15, 3)
    return np.clip(behind + rng.uniform(*_CONTRASTS) + tint, 0, 255).astype(np.float32)


def _blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return image + alpha[..., None] * (colour - image)
