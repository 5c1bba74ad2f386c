"""Small pictures for a page, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

#: Pixels; a page with a dozen rows of four pictures stays below a few megabytes.
MAX_WIDTH, MIN_WIDTH = 480, 360


def enlarged(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture of a width that can be drawn on, and the factor.

    Args:
        picture: BGR, (H, W, 3), uint8.

    Example:
        >>> picture, factor = enlarged(np.zeros((90, 960, 3), np.uint8))
        >>> picture.shape, factor
        ((45, 480, 3), 0.5)
    """
    height, width = picture.shape[:2]
    target = min(max(width, MIN_WIDTH), MAX_WIDTH)
    target = min(target, max(1, MAX_WIDTH * width // height))  # tall ones
    factor = target / width
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = (target, max(1, round(height * factor)))
    return cv2.resize(picture, size, interpolation=how), factor


def draw_box(
    picture: np.ndarray,
    box: Sequence[float] | np.ndarray,
    text: str,
    colour: tuple[int, int, int],
    dashed: bool = False,
) -> None:
    """Draw a box and its label into a picture, in place.

    Args:
        picture: BGR, (H, W, 3), uint8.
        box: x1, y1, x2, y2 in its pixels.
        text: The label; what is not ASCII is left out.
        colour: BGR.
        dashed: Whether the lines are broken, for those who see no colours.
    """
    height, width = picture.shape[:2]
    x1, y1 = (int(np.clip(v, 0, n - 1)) for v, n in zip(box[:2], (width, height)))
    x2, y2 = (int(np.clip(v, 0, n - 1)) for v, n in zip(box[2:], (width, height)))
    if dashed:
        for start, end in (
            ((x1, y1), (x2, y1)),
            ((x2, y1), (x2, y2)),
            ((x1, y2), (x2, y2)),
            ((x1, y1), (x1, y2)),
        ):
            _dashed(picture, start, end, colour)
    else:
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2)
    text = text.encode('ascii', 'ignore').decode()
    if not text:
        return
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (wide, high), _ = cv2.getTextSize(text, font, scale, 1)
    left = min(x1, max(width - wide - 4, 0))
    bottom = y1 if y1 > high + 5 else min(y1 + high + 5, height - 1)
    cv2.rectangle(
        picture, (left, bottom - high - 5), (left + wide + 4, bottom), colour, -1
    )
    ink = (0, 0, 0) if sum(colour) > 400 else (255, 255, 255)
    cv2.putText(picture, text, (left + 2, bottom - 3), font, scale, ink, 1, cv2.LINE_AA)


def jpeg(picture: np.ndarray) -> str:
    """A BGR picture as a data URI."""
    return _uri('.jpg', 'jpeg', picture, [cv2.IMWRITE_JPEG_QUALITY, 82])


def heat(values: np.ndarray, low: float, high: float, width: int = 200) -> str:
    """A map as a data URI, from dark blue (low) over green to yellow (high).

    Args:
        values: (h, w).
        low: Value that is darkest.
        high: Value that is brightest.
        width: Of the picture; every value becomes a square.
    """
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    grey = np.clip(share * 255, 0, 255).astype(np.uint8)
    factor = max(1, width // values.shape[1])
    grey = grey.repeat(factor, 0).repeat(factor, 1)
    return _uri('.png', 'png', cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), [])


def _uri(ending: str, kind: str, picture: np.ndarray, options: list[int]) -> str:
    done, data = cv2.imencode(ending, picture, options)
    if not done:
        raise ValueError(f'a picture of shape {picture.shape} cannot be encoded')
    return f'data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}'


def _dashed(
    picture: np.ndarray,
    start: tuple[int, int],
    end: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for first in range(0, length, 10):
        last = min(first + 6, length)
        points = [
            tuple(round(a + (b - a) * at / length) for a, b in zip(start, end))
            for at in (first, last)
        ]
        cv2.line(picture, points[0], points[1], colour, 2)
