"""Edges of pictures, of which the pictures are to be made again."""

from __future__ import annotations

from typing import Any

import torch

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class DrawEdges:
    """Draws the edges of ``target`` as ``source``, white on black.

    Reference:
        Canny, A Computational Approach to Edge Detection, TPAMI 1986

    Args:
        low: Gradient from which on an edge goes on.
        high: Gradient from which on one begins.

    Raises:
        ValueError: If ``low`` is above ``high``.

    Example:
        >>> picture = torch.zeros(3, 12, 12, dtype=torch.uint8)
        >>> picture[:, 4:8, 4:8] = 255
        >>> edges = DrawEdges()(dict(target=picture))['source']
        >>> edges.shape, edges.unique().tolist()
        (torch.Size([1, 12, 12]), [0, 255])
    """

    def __init__(self, low: float = 100.0, high: float = 200.0) -> None:
        if low > high:
            raise ValueError(f'low must be at most high but they are {low} and {high}')
        self.thresholds = (low, high)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``source``, (1, H, W), 0 or 255, of ``target`` (C, H, W)."""
        import cv2

        picture = results['target'].permute(1, 2, 0).contiguous().numpy()
        if picture.shape[2] == 3:
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        edges = cv2.Canny(picture.reshape(picture.shape[:2]), *self.thresholds)
        results['source'] = torch.from_numpy(edges)[None]
        return results
