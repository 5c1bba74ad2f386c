"""Structured knowledge distillation, pixel-wise: class distributions per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..registry import MODELS
from .base import DistillLoss, paired_levels
from .class_map import ClassMap, class_map_of
from .precision import (
    check_same_shape,
    check_temperature,
    full_precision,
    only_weighted,
)
from .score_maps import check_maps, resized, scored_alike

NORMALIZERS = ('valid_pixels', 'pami_code', 'cvpr19_code')


@full_precision
def pixel_wise_loss(
    student: Tensor,
    teacher: Tensor,
    valid_mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    r"""KL divergence between the class distributions of each pixel.

    .. math::
        \frac{T^2}{|V|} \sum_{(n,i) \in V} \mathrm{KL}\big(
            \sigma(t_{ni} / T) \,\|\, \sigma(s_{ni} / T)\big)

    where :math:`\sigma` is a softmax over the classes and V the valid pixels of all
    images together. :math:`T^2` keeps the size of the gradients as T changes; the
    paper has T = 1. The paper writes KL(s || t); its code has the teacher first, and
    so has everyone since.

    Reference:
        Liu et al., Structured Knowledge Distillation for Semantic Segmentation,
        CVPR 2019, https://arxiv.org/abs/1903.04197

    Args:
        student: Class logits, shape (N, C, H, W). With C = 1 they are log odds of a
            foreground, as MMSegmentation's heads of one output channel have them.
        teacher: Tensor of the same shape. Detached internally.
        valid_mask: Pixels that count, boolean, shape (N, H, W) or (N, 1, H, W); all
            of them if not given.
        temperature: Softmax temperature T; must be > 0.

    Returns:
        Scalar tensor, in nats. A differentiable zero without valid pixels.

    Raises:
        ValueError: If the shapes differ, the mask does not fit, or the temperature
            is not positive.

    Example:
        >>> s, t = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
        >>> t[0, 1, 0, 0] = 1.0
        >>> pixel_wise_loss(s, t)
        tensor(0.0555)
        >>> pixel_wise_loss(s, t, torch.tensor([[[True, False]]]))
        tensor(0.1109)
    """
    check_same_shape(student, teacher)
    check_temperature(temperature)
    if student.dim() != 4:
        raise ValueError(
            f'logits must have shape (N, C, H, W) but have {tuple(student.shape)}'
        )
    if valid_mask is not None:
        valid = _as_pixels(valid_mask, student[:, 0])
        student, teacher = only_weighted(valid[:, None], student, teacher)
    log_s, log_t = _log_probabilities(student, teacher.detach(), temperature)
    pixels = (log_t.exp() * (log_t - log_s)).sum(1)
    if valid_mask is None:
        return pixels.sum() * temperature**2 / max(pixels.numel(), 1)
    pixels = pixels.masked_fill(~valid, 0)
    return pixels.sum() * temperature**2 / valid.sum().clamp(min=1)


def _log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float
) -> list[Tensor]:
    """Log-probabilities of the classes, (N, C, H, W), of both sides."""
    scaled = [student / temperature, teacher / temperature]
    if student.shape[1] == 1:  # one logit z: the classes have logits 0 and z
        scaled = [torch.cat([torch.zeros_like(x), x], 1) for x in scaled]
    return [x.log_softmax(1) for x in scaled]


def _as_pixels(mask: Tensor, pixels: Tensor) -> Tensor:
    expected = tuple(pixels.shape)
    if tuple(mask.shape) not in (expected, (expected[0], 1, *expected[1:])):
        raise ValueError(
            f'valid_mask must have shape {expected} but has {tuple(mask.shape)}'
        )
    return mask.bool().view(pixels.shape)


@full_precision
def _pami_code(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of all pixels / (H W): grows with the images of a batch."""
    log_s, log_t = _log_probabilities(student, teacher.detach(), temperature)
    height, width = student.shape[2:]
    return -(log_t.exp() * log_s).sum() * temperature**2 / max(height * width, 1)


@full_precision
def _cvpr19_code(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL over images, classes and pixels of maps enlarged eight times."""
    if not student.numel():
        return student.sum() * 0
    size = [8 * side for side in student.shape[2:]]
    larger = [
        F.interpolate(x, size=size, mode='bilinear', align_corners=True)
        for x in (student, teacher.detach())
    ]
    log_s, log_t = _log_probabilities(larger[0], larger[1], temperature)
    return (log_t.exp() * (log_t - log_s)).mean() * temperature**2


@MODELS.register_module()
class PixelWiseLoss(DistillLoss):
    """:func:`pixel_wise_loss` between score maps before they are resized.

    Left out are pixels that the labels ignore (255) and padding. A score map is
    coarser than the labels: a cell counts if the pixel at its centre does. Of several
    decode heads the last one counts. Where the teacher's map has another size it is
    resized bilinearly to the student's. Under DDP the mean is that of each process.

    Args:
        at: Decode head of the student, or a module that yields logits per pixel;
            only the former knows the labels, and what they ignore.
        loss_weight: Factor of the term; the paper's 10 if not given.
        temperature: Softmax temperature; must be > 0.
        normalize: ``'valid_pixels'``; or what the authors' codes compute, without
            masks: ``'pami_code'`` is a cross-entropy summed over the images of a
            batch and averaged over their pixels, ``'cvpr19_code'`` a KL divergence
            averaged over classes, too, on maps enlarged eight times.
        teacher_at: The same in the teacher; ``at`` if not given.
        teacher_classes: What each class of the student is in a teacher of other
            classes; see :class:`~mmkd.losses.class_map.ClassMap`.

    Raises:
        ValueError: When the model is built: numbers of classes that differ, or taps
            that yield no maps.

    Example:
        >>> loss = PixelWiseLoss(loss_weight=2.0)
        >>> s, t = torch.zeros(1, 2, 1, 1), torch.tensor([[[[0.]], [[1.]]]])
        >>> loss(s, t)
        tensor(0.2219)
    """

    reads = ('logits',)

    def __init__(
        self,
        at: str = 'decode_head',
        loss_weight: float = 10.0,
        temperature: float = 1.0,
        normalize: str = 'valid_pixels',
        teacher_at: str | None = None,
        teacher_classes: Sequence[int | str | None] | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        self.teacher_classes = teacher_classes
        self._class_map: ClassMap | None = None
        check_temperature(temperature)
        if normalize not in NORMALIZERS:
            raise ValueError(
                f'normalize must be one of {NORMALIZERS} but is {normalize!r}'
            )
        self.temperature = temperature
        self.normalize = normalize

    def prepare(self, student: Any, teacher: Any) -> None:
        names = getattr(teacher, 'class_names', None)
        if self.teacher_classes is None:
            self.class_names = names
        if student is None or teacher is None:
            return
        if self.teacher_classes is None:
            scored_alike(student, teacher, self.at, self.teacher_at)
            return
        pairs = paired_levels(student, teacher)
        check_maps(pairs, self.at, self.teacher_at)
        self._class_map = class_map_of(self.teacher_classes, pairs, names)

    def extra_repr(self) -> str:
        own = f'temperature={self.temperature}, normalize={self.normalize!r}'
        return f'{super().extra_repr()}, {own}'

    def places(self, student: Any, batch: Batch) -> None:
        return None

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        terms = []
        for s, t in paired_levels(student, teacher):
            t = resized(t, s)
            if self._class_map is not None:
                s, t = self._class_map.alike(s, t, False, False)
            if self.normalize == 'pami_code':
                terms.append(_pami_code(s, t, self.temperature))
            elif self.normalize == 'cvpr19_code':
                terms.append(_cvpr19_code(s, t, self.temperature))
            else:
                mask = batch.valid_mask(s) if batch is not None else None
                if hasattr(student, 'valid_at'):
                    labelled = student.valid_at(s)
                    if self._class_map is not None and not self._class_map.has_rest(s):
                        # Of other classes the teacher says nothing.
                        known = self._class_map.is_known(student.labels_at(s))
                        labelled = labelled & known.view_as(labelled)
                    mask = labelled if mask is None else labelled & mask
                terms.append(pixel_wise_loss(s, t, mask, self.temperature))
        return sum(terms) / len(terms)  # type: ignore[return-value]
