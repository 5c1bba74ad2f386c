"""What a segmentor sees in generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..registry import METRICS
from ..teacher_loading import load_teacher
from .features import Sample, checked_size, entry, in_colours, torchmetrics, unit
from .transforms import IGNORED


@METRICS.register_module()
class GeneratedSegmentation(BaseMetric):
    """What a segmentor sees in pictures that were generated from label maps.

    Mean intersection over union ``mIoU``, mean accuracy of the classes ``mAcc`` and
    accuracy of the pixels ``aAcc``, in percent, of all pixels of all pictures together,
    as MMSegmentation's ``IoUMetric`` has them. Means are over the classes that occur.

    The segmentor, with its own ``data_preprocessor``, is given what it would find in
    the file of a picture, one picture at a time.

    Args:
        segmentor: ``dict(config=..., checkpoint=...)`` of MMSegmentation, as a teacher
            is named: see :func:`mmkd.teacher.build_teacher`.
        size: Height and width to which pictures are resized for the segmentor, such as
            it was trained with; ``None`` leaves them as they are. What it predicts is
            brought to the size of the labels.
        collect_device: Of the results of several processes.
        prefix: Of the names in the log; by default ``'pictures'``.

    Raises:
        ImportError: If torchmetrics is not installed.
        TypeError: If the segmentor is of another type.
        ValueError: If it is no segmentor, or its weights do not fit.
    """

    default_prefix = 'pictures'

    def __init__(
        self,
        segmentor: Any,
        size: Sequence[int] | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        torchmetrics()
        self.size = checked_size(size, 'size')
        model, source, self.device, *_ = load_teacher(segmentor, 'mmseg')
        classes: Any = getattr(model, 'num_classes', None)
        if not isinstance(classes, int):
            raise ValueError(
                f'the segmentor {source} must be a model of MMSegmentation that has '
                f'num_classes but is a {type(model).__name__}'
            )
        self.num_classes = classes
        self.segmentor: Any = model
        model.eval()  # some return None

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[Sample]) -> None:
        """Keep, of every picture, how many pixels of each class are what.

        Args:
            data_batch: Not used.
            data_samples: Of each picture, ``generated`` (C, H, W) from -1 to 1, and
                ``labels``, the classes (H', W') or (1, H', W') that it was made from,
                of any integer type; 255 is not counted.

        Raises:
            ValueError: If one is missing, or labels are no such map.
        """
        matrix_of = torchmetrics().classification.multiclass_confusion_matrix
        for sample in data_samples:
            seen = self._seen(unit(entry(sample, 'generated')))
            truth = self._checked(entry(sample, 'labels')).to(seen.device)
            seen = F.interpolate(seen[None].float(), truth.shape)[0, 0].long()
            matrix = matrix_of(
                seen, truth, self.num_classes, ignore_index=IGNORED, validate_args=False
            )
            # Rows are classes of the truth. Of many classes a matrix would be large.
            sums = [matrix.diag(), matrix.sum(1), matrix.sum(0)]
            self.results.append(dict(hit_truth_seen=torch.stack(sums).cpu()))

    def compute_metrics(self, results: list[dict[str, Tensor]]) -> dict[str, float]:
        """The three means, in percent; NaN if no pixel has a class.

        Args:
            results: Of every picture, what :meth:`process` has kept.
        """
        if not results:
            return {}
        sums = torch.stack([one['hit_truth_seen'] for one in results]).sum(0)
        hit, truth, seen = sums.double()
        # 0 / 0 of a class that does not occur is NaN, which is left out.
        found = dict(
            aAcc=hit.sum() / truth.sum(),
            mIoU=(hit / (truth + seen - hit)).nanmean(),
            mAcc=(hit / truth).nanmean(),
        )
        return {name: round(100 * float(value), 2) for name, value in found.items()}

    def _seen(self, picture: Tensor) -> Tensor:
        """Classes (1, H, W) of a picture (C, H, W) from 0 to 1."""
        self.segmentor.to(self.device or picture.device)
        x = (in_colours(picture[None]) * 255).round().float().flip(1)  # red last
        if self.size is not None:
            x = F.interpolate(x, self.size, mode='bilinear').round()
        shape = tuple(x.shape[2:])
        sample = BaseDataElement(
            metainfo=dict(
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                padding_size=[0] * 4,
                scale_factor=(1.0, 1.0),
            )
        )
        data = dict(inputs=list(x), data_samples=[sample])
        return self.segmentor.test_step(data)[0].pred_sem_seg.data

    def _checked(self, labels: Tensor) -> Tensor:
        truth = labels[0] if labels.ndim == 3 and len(labels) == 1 else labels
        if truth.ndim != 2 or truth.is_floating_point():
            raise ValueError(
                'labels must be classes (H, W) of an integer type but are '
                f'{tuple(labels.shape)} of {labels.dtype}'
            )
        truth = truth.long()
        known = (truth >= 0) & (truth < self.num_classes)
        unknown = truth[~known & (truth != IGNORED)]
        if len(unknown):
            raise ValueError(
                f'labels must be from 0 to {self.num_classes - 1}, the classes of the '
                f'segmentor, or {IGNORED}, but one is {int(unknown[0])}'
            )
        return truth
