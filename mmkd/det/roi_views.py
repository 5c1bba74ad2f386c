"""What the box heads of two-stage detectors predict and are taught, by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.models.roi_heads import TridentRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..nested import move
from ..taps import Call, HeadView, Tap, resolve
from .box_units import BoxUnits, units_of

#: How many RoIs the teacher scores at a time: their features are what takes memory
#: while the student's activations are held, 50 KB each.
ROIS_AT_ONCE = 256


@dataclass
class RoIStage:
    """One stage's box head: its predictions, and in the student its targets.

    Rows are regions of interest (RoIs), image by image.

    Args:
        head: The head.
        weight: Factor of the stage's losses in the total.
        predictions: Class logits (R, K) and box deltas (R, 4) or (R, 4 C); absent
            before the head has run.
        targets: Arguments of the head's own loss, in the student.
    """

    head: Any
    weight: float = 1.0
    predictions: tuple[Tensor, Tensor | None] | None = None
    targets: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes, without the background."""
        return self.head.num_classes

    @property
    def is_sigmoid(self) -> bool:
        """Whether every class logit is a classifier of its own."""
        return getattr(self.head.loss_cls, 'use_sigmoid', False)

    @property
    def has_background(self) -> bool:
        """Whether the last logit is that of the background: in RoI heads, always."""
        return True

    @property
    def is_class_specific(self) -> bool:
        """Whether every class has a box of its own."""
        return not self.head.reg_class_agnostic

    @property
    def units(self) -> BoxUnits | None:
        """In what boxes are predicted; ``None`` unless they are deltas of RoIs."""
        return units_of(self.head.bbox_coder) if self.head.with_reg else None

    @property
    def class_rows(self) -> Tensor:
        """Class logits, (R, K); without rows before the head has run."""
        if self.predictions is None:
            return next(self.head.parameters()).new_zeros(0, self.num_classes + 1)
        return self.predictions[0]

    def classes_of(self, index: Tensor) -> Tensor:
        """:attr:`class_rows` of some rows, (n, K)."""
        return self.class_rows[index]

    def deltas(self, index: Tensor, labels: Tensor) -> Tensor:
        """Predicted boxes of some rows in :attr:`units`, (n, 4).

        Args:
            index: The rows, (n,).
            labels: Class of every one of them: a class-specific head predicts a
                box for each class.
        """
        assert self.predictions is not None
        assert self.predictions[1] is not None
        deltas = self.predictions[1][index]
        if self.head.reg_class_agnostic:
            return deltas
        rows = torch.arange(len(index), device=index.device)
        return deltas.unflatten(1, (self.num_classes, -1))[rows, labels]

    @property
    def rois(self) -> Tensor:
        """The student's sampled RoIs: image, x1, y1, x2, y2 in input pixels, (R, 5)."""
        return self.targets['rois']

    @property
    def labels(self) -> Tensor:
        """Class of every row, (R,); ``num_classes`` stands for background."""
        return self.targets['labels']

    @property
    def label_weights(self) -> Tensor:
        """Weight of every row in the classification loss, (R,)."""
        return self.targets['label_weights']

    @property
    def positives(self) -> Tensor:
        """Boolean mask of the rows that are assigned to an object, (R,)."""
        return (self.labels >= 0) & (self.labels < self.num_classes)

    def true_deltas(self, index: Tensor) -> Tensor:
        """True boxes of some rows in :attr:`units`, (n, 4)."""
        targets = self.targets['bbox_targets'][index]
        if not self.head.reg_decoded_bbox:
            return targets
        return self.head.bbox_coder.encode(self.rois[index, 1:], targets)

    @property
    def class_factor(self) -> float:
        """Number of rows with a label weight: its mean over ranks, at least 1."""
        return mean_count((self.label_weights > 0).sum(), self.labels.device)

    @property
    def box_factor(self) -> float:
        """Number of rows: its mean over ranks, at least 1."""
        return mean_count(len(self.labels), self.labels.device)


class RoIHeadView(HeadView):
    """The box head of a two-stage detector in one step, of every stage.

    The student's sampled RoIs and their targets are recorded as they enter the
    head's own loss. The teacher runs as far as its features; when the student is
    done, its box head scores the *student's* RoIs on them, all images in one call.
    RoIs are in input pixels, so strides and necks may differ.
    """

    methods = ('extract_feat', 'loss')
    keeps_arguments = ('loss',)
    training_outputs = False  # box heads return the same in training and in eval
    loss_method = 'loss'

    def __init__(
        self, path: str, module: nn.Module, model: nn.Module | None = None
    ) -> None:
        assert model is not None
        parent, _, last = path.rpartition('.')
        self.first = 0
        if last.isdecimal():  # one stage of a cascade
            parent, self.first = parent.rpartition('.')[0], int(last)
        self.roi_head: Any = resolve(model, parent)
        self.detector: Any = resolve(model, parent.rpartition('.')[0])
        self.heads = _heads(module)
        self._scored: list[RoIStage] = []
        self._follows: Tap | None = None
        super().__init__(path, module, model)

    @property
    def name(self) -> str:
        """How messages call it."""
        return f'{type(self.heads[0]).__name__} ({self.path!r})'

    @property
    def obstacle(self) -> str | None:
        """Why its rows cannot be distilled; ``None`` if they can."""
        for head in self.heads:
            name = type(head).__name__
            if (
                type(head).loss is not BBoxHead.loss
                or type(head).loss_and_target is not BBoxHead.loss_and_target
            ):
                return f'{name} has a loss of its own'
            if not head.with_cls or head.custom_cls_channels:
                return f'{name} has other logits than of classes and the background'
        if isinstance(self.roi_head, TridentRoIHead):
            return 'TridentRoIHead trains on several copies of every image'
        return None

    @property
    def watched(self) -> list[tuple[nn.Module, str]]:
        heads = [(head, 'loss') for head in self.heads]
        return [(self.detector, 'extract_feat'), *heads]

    def returned(self, name: str, output: Any) -> Any:
        if name == 'loss' and not _is_taught(self.calls['loss'][-1]):
            return output
        return super().returned(name, output)

    def to(self, device: torch.device) -> None:
        """Features stay where the teacher is; :meth:`follow` moves what it finds."""

    @property
    def stages(self) -> list[RoIStage]:
        """The stages that ran, in order; before any of them did, all of them."""
        if self._scored:
            return self._scored
        if not self.calls['loss']:
            return [RoIStage(head) for head in self.heads]
        weights = getattr(self.roi_head, 'stage_loss_weights', [1.0])[self.first :]
        taught = [_given(call) for call in self.calls['loss'] if _is_taught(call)]
        return [
            RoIStage(head, weight, (given['cls_score'], given['bbox_pred']), given)
            for head, weight, given in zip(self.heads, weights, taught)
        ]

    @property
    def logits(self) -> list[Tensor]:
        """Class logits of every stage, (R, K)."""
        return [stage.class_rows for stage in self.stages]

    @property
    def later(self) -> list[nn.Module]:
        return [self.roi_head]

    def follow(self, student: Tap) -> None:
        """Score the student's RoIs.

        Args:
            student: The student's view, complete.
        """
        if self._follows is student:  # another term of the same heads
            return
        features = self.calls['extract_feat'][0].output
        of_stage = hasattr(self.roi_head, 'num_stages')
        branches = self._branches(features)
        scored = []
        for index, (head, stage) in enumerate(zip(self.heads, student.stages)):  # type: ignore[attr-defined]
            rois = stage.rois.to(features[0].device)
            which = (self.first + index,) if of_stage else ()
            scores, boxes = [], []
            for part in rois.split(ROIS_AT_ONCE):
                found = self.roi_head._bbox_forward(*which, features, part, **branches)
                scores.append(found['cls_score'])
                boxes.append(found['bbox_pred'])
            predictions = (
                torch.cat(scores),
                torch.cat(boxes) if boxes[0] is not None else None,
            )
            predictions = move(predictions, stage.rois.device)
            scored.append(RoIStage(head, predictions=predictions))
        self._scored, self._follows = scored, student

    def _branches(self, features: Any) -> dict[str, Any]:
        """What HTC and SCNet fuse into the features of every RoI."""
        wanted = inspect.signature(self.roi_head._bbox_forward).parameters
        heads = {
            name: getattr(self.roi_head, f'{name.removesuffix("_feat")}_head', None)
            for name in ('semantic_feat', 'glbctx_feat')
            if name in wanted
        }
        return {name: head(features)[1] for name, head in heads.items() if head}


_LOSS_SIGNATURE = inspect.signature(BBoxHead.loss)


def _given(call: Call) -> dict[str, Any]:
    """Arguments of a head's loss by name."""
    return _LOSS_SIGNATURE.bind(None, *call.args, **call.kwargs).arguments


def _is_taught(call: Call) -> bool:
    """Whether a head's loss is for training: OHEM and PISA choose RoIs by it, too."""
    return _given(call)['bbox_targets'] is not None


def mean_count(count: Any, device: torch.device) -> float:
    """Mean over ranks of what a head counts, at least 1.

    DDP averages gradients: two ranks then do what one does with both batches.
    """
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    all_reduce(total, 'mean')
    return max(total.item(), 1.0)


def are_box_heads(module: nn.Module) -> bool:
    """Whether a module is a box head of RoIs, or the list of a cascade's."""
    heads = _heads(module)
    return bool(heads) and all(isinstance(head, BBoxHead) for head in heads)


def _heads(module: nn.Module) -> list[Any]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]
