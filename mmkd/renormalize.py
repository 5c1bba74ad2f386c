"""The teacher sees images normalised the way it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batch import Batch


@dataclass(frozen=True)
class Normalization:
    """How a data preprocessor turns pixels into inputs.

    Args:
        mean: Per channel, in the order of the model's input; 0..255 units.
        std: Per channel.
        flipped: Whether the channel order is reversed after loading.
        pad_value: Value of padding, in normalised units.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flipped: bool = False
    pad_value: float = 0.0

    @classmethod
    def of(cls, preprocessor: nn.Module | None) -> Normalization:
        """Read off mmengine's, mmdet's and mmseg's preprocessors.

        Args:
            preprocessor: ``model.data_preprocessor``, or ``None``.

        Returns:
            The identity where nothing is normalised.
        """
        mean, std = (
            getattr(preprocessor, 'mean', None),
            getattr(preprocessor, 'std', None),
        )
        if mean is None or std is None:
            mean, std = torch.zeros(1), torch.ones(1)
        # mmengine and mmdet, mmseg, mmpretrain: each has its own name for it.
        names = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        flipped = any(getattr(preprocessor, name, False) for name in names)
        pad_value = getattr(
            preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0.0)
        )
        return cls(
            tuple(mean.flatten().tolist()),
            tuple(std.flatten().tolist()),
            flipped,
            float(pad_value),
        )


class Renormalizer:
    """Converts inputs from the student's normalisation to the teacher's.

    Both preprocessors normalise and pad afterwards, so the padded area is set
    to the teacher's own padding value again. Sizes, padding and batch
    augmentations stay the student's.

    Args:
        student: Normalisation the inputs have.
        teacher: Normalisation they should have.

    Example:
        >>> to_caffe = Renormalizer(
        ...     Normalization((100., 110., 120.), (50., 50., 50.), flipped=True),
        ...     Normalization((120., 110., 100.), (1., 1., 1.)))
        >>> rgb = torch.tensor([1., 0., 0.]).view(1, 3, 1, 1)
        >>> to_caffe(Batch(rgb)).flatten().tolist()
        [0.0, 0.0, 50.0]
    """

    def __init__(self, student: Normalization, teacher: Normalization) -> None:
        self.student = student
        self.teacher = teacher
        self.is_identity = student == teacher

    def __call__(self, batch: Batch) -> Tensor:
        """Inputs for the teacher.

        Args:
            batch: Inputs of shape (N, C, H, W) in the student's normalisation.

        Returns:
            Tensor of the same shape and dtype.

        Raises:
            TypeError: If the two differ and the inputs are not a 4-D tensor.
        """
        inputs = batch.inputs
        if self.is_identity:
            return inputs
        if not (isinstance(inputs, Tensor) and inputs.dim() == 4):
            raise TypeError(
                'the teacher normalises its inputs differently, which needs inputs of '
                f'shape (N, C, H, W) but they are {type(inputs).__name__}'
            )
        x = inputs.float()
        x = x * self._column(self.student.std, x) + self._column(self.student.mean, x)
        if self.student.flipped != self.teacher.flipped:
            x = x.flip(1)
        x = (x - self._column(self.teacher.mean, x)) / self._column(self.teacher.std, x)
        valid = batch.valid_mask(x)
        if valid is not None:
            x = x.masked_fill(~valid, self.teacher.pad_value)
        return x.to(inputs.dtype)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(
            1, -1, 1, 1
        )
