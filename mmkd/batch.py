"""The preprocessed batch that student and teacher both see."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """Inputs and data samples of one training step.

    Args:
        inputs: What the student's data preprocessor returned; shape
            (N, C, H, W) for images.
        data_samples: A list with one element per image, of which ``img_shape``
            (height, width in pixels without padding) is read where it is
            present; whatever else a model takes is passed through.
        student: Path -> what the student's taps yielded in this step.
        teacher: Path -> what the teacher's taps yielded.
        logs: Where a loss leaves numbers to be logged beside it.
    """

    inputs: Any
    data_samples: Any = None
    student: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)
    _masks: dict = field(default_factory=dict, repr=False)

    @property
    def gt_boxes(self) -> list[Tensor]:
        """Boxes of every image's objects, (G, 4) as x1, y1, x2, y2 in input pixels.

        Crowd and ignored boxes are not among them.
        """
        boxes = [sample.gt_instances.bboxes for sample in self.data_samples]
        # MMDetection may hand out boxes of a class of its own.
        return [box if isinstance(box, Tensor) else box.tensor for box in boxes]

    def valid_mask(self, like: Tensor) -> Tensor | None:
        """Which positions of a feature map belong to the image, not to padding.

        A position is valid if its upper left pixel lies in the image; images
        are placed in the upper left corner by both host libraries.

        Args:
            like: Feature map, shape (N, C, h, w), of this batch.

        Returns:
            Boolean mask, shape (N, 1, h, w) on the device of ``like``;
            ``None`` if no image of the batch is padded, or nothing is known.

        Example:
            >>> from mmengine.structures import BaseDataElement
            >>> sample = BaseDataElement(metainfo=dict(img_shape=(4, 2)))
            >>> batch = Batch(torch.zeros(1, 3, 4, 4), [sample])
            >>> batch.valid_mask(torch.zeros(1, 8, 2, 2)).int().tolist()
            [[[[1, 0], [1, 0]]]]
        """
        shapes = self._padded_shapes()
        if shapes is None or like.dim() != 4 or like.shape[0] != len(shapes):
            return None
        key = (tuple(like.shape[2:]), like.device)
        if key not in self._masks:
            self._masks[key] = self._build_mask(shapes, like)
        return self._masks[key]

    def inside_gt(self, like: Tensor) -> Tensor:
        """Which positions of a feature map lie in the box of an object.

        Args:
            like: Feature map, shape (N, C, h, w), of this batch.

        Returns:
            Boolean mask, shape (N, 1, h, w); a position is its upper left pixel,
            where MMDetection centres its anchors.
        """
        top, left = self._pixels(like)
        masks = []
        for boxes in self.gt_boxes:
            x1, y1, x2, y2 = boxes.to(top).unbind(1)
            inside_rows = (top[:, None] > y1) & (top[:, None] < y2)
            inside_columns = (left[:, None] > x1) & (left[:, None] < x2)
            inside = inside_rows[:, None] & inside_columns[None, :]
            masks.append(inside.any(-1)[None])
        return torch.stack(masks)

    def _pixels(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Upper edge of every row and left edge of every column in pixels."""
        height, width = self.inputs.shape[2:]
        rows, columns = like.shape[2:]
        top = torch.arange(rows, device=like.device) * stride(height, rows)
        left = torch.arange(columns, device=like.device) * stride(width, columns)
        return top.float(), left.float()

    def _padded_shapes(self) -> list[tuple[int, int]] | None:
        if not (isinstance(self.inputs, Tensor) and self.inputs.dim() == 4):
            return None
        full = tuple(self.inputs.shape[2:])
        samples = (
            self.data_samples if isinstance(self.data_samples, (list, tuple)) else ()
        )
        shapes = [tuple(getattr(sample, 'img_shape', full))[:2] for sample in samples]
        is_padded = any(h < full[0] or w < full[1] for h, w in shapes)
        return shapes if is_padded else None

    def _build_mask(self, shapes: list[tuple[int, int]], like: Tensor) -> Tensor:
        limits = torch.tensor(shapes, device=like.device, dtype=torch.float32)
        top, left = self._pixels(like)
        inside_rows = top[None, :] < limits[:, 0, None]
        inside_columns = left[None, :] < limits[:, 1, None]
        return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def batch_of(function: Any, args: tuple, kwargs: dict) -> Batch:
    """The batch that a model's function is called with.

    Args:
        function: It takes inputs and data samples first.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If there are no inputs.
    """
    # Keywords come in the order of the data set's dict, not of the signature.
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.arguments.pop('mode', None)
    named = {key: value for key, value in bound.kwargs.items() if key != 'mode'}
    values = [*bound.args, *named.values()]
    if not values:
        raise ValueError('loss() must be given the inputs')
    return Batch(values[0], values[1] if len(values) > 1 else None)


def stride(pixels: int, cells: int) -> float:
    """Pixels per cell: a power of two where one explains the number of cells.

    Example:
        >>> stride(128, 16), stride(800, 7), stride(96, 5)
        (8, 128, 19.2)

    The last row of a pyramid level often hangs over the edge of the input: 800
    pixels at stride 128 are 7 rows, which are not 800 / 7 pixels high.
    """
    step = 2 ** max(round(math.log2(pixels / cells)), 0)
    return step if math.ceil(pixels / step) == cells else pixels / cells
