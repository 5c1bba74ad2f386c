"""What the losses that compare maps level by level share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..adapters import build_adapter
from ..batch import Batch
from .base import DistillLoss
from .feature_imitation import adapter_between, check_sizes
from .level_pairs import check_pairs, paired, pairs_by_stride
from .score_maps import check_maps

REMEDY = "tap modules of equal stride, or set levels='stride' for pyramids"


class PairedMapsLoss(DistillLoss):
    """Base of the losses on maps (N, C, H, W), averaged over levels.

    Where the widths of student and teacher differ, a trained 1x1 convolution
    adapts the student's; where they agree the maps are compared as they are.

    Args:
        at: Tapped sub-module of the student; yields a map or a tuple of them.
        loss_weight: Factor of the term.
        teacher_at: Tapped sub-module of the teacher; ``at`` if not given.
        adapter: ``dict(in_channels=..., out_channels=...)``, needed where widths
            differ and no dry run can find them.
        levels: Which levels are compared, see
            :class:`~mmkd.losses.feature_imitation.FeatureImitationLoss`.
    """

    reads = ('logits',)

    #: What :meth:`prepare_maps` makes, without which there is no loss.
    networks: str | None = None

    def __init__(
        self,
        at: str,
        loss_weight: float,
        teacher_at: str | None,
        adapter: dict | None,
        levels: str | Sequence[Sequence[int]] | None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        self.levels: Any = check_pairs(levels)  # pairs once it is prepared
        self.adapter = build_adapter(adapter) if adapter is not None else None

    def prepare(self, student: Any, teacher: Any) -> None:
        if student is None or teacher is None:
            if self.networks:
                raise ValueError(
                    f'{type(self).__name__} makes its {self.networks} by a dry run but '
                    f'{self.at!r} or {self.teacher_at!r} of the teacher does not run '
                    'on a synthetic image'
                )
            if self.levels == 'stride':
                raise ValueError(
                    'the strides cannot be found by a dry run; give levels as pairs'
                )
            return
        if self.levels == 'stride':
            self.levels = pairs_by_stride(student, teacher)
        pairs = paired(student, teacher, self.levels)
        check_maps(pairs, self.at, self.teacher_at)
        check_sizes(pairs, REMEDY)
        if self.adapter is None and any(s.shape[1] != t.shape[1] for s, t in pairs):
            self.adapter = adapter_between(pairs)
        self.prepare_maps(pairs)

    def prepare_maps(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Make what the subclass trains, now that the maps are known.

        Args:
            pairs: Student's and teacher's map of every level, of a dry run.
        """

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        pairs = paired(student, teacher, self.levels)
        ours = [s for s, _ in pairs]
        if self.adapter is not None:
            ours = self.adapter(tuple(ours))
        elif any(s.shape[1] != t.shape[1] for s, t in pairs):
            raise ValueError(
                'widths differ and were not known when the model was built; give '
                'adapter=dict(in_channels=..., out_channels=...)'
            )
        terms = [
            self.compare(level, s, t.detach(), batch)
            for level, (s, (_, t)) in enumerate(zip(ours, pairs))
        ]
        return sum(terms) / len(terms)  # type: ignore[return-value]

    def compare(
        self, level: int, student: Tensor, teacher: Tensor, batch: Batch | None
    ) -> Tensor:
        """Value of one level; defined by the subclass.

        Args:
            level: Which of those that are compared.
            student: Its map, adapted, (N, C, H, W).
            teacher: The teacher's, of the same shape, detached.
            batch: The batch.
        """
        raise NotImplementedError(f'{type(self).__name__} must define compare()')
