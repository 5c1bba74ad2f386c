"""What MMDetection's dense heads predict and are taught, by name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from ..batch import Batch
from .box_units import BoxUnits, units_of
from .dense_targets import DenseTargets, obstacle_of
from .rows import as_maps, picked_rows, rows_of


class DenseHeadView(DenseTargets):
    """A dense head (RetinaNet, ATSS, GFL, FCOS, ...) in one step.

    The targets are the ones the head computed for its own loss; assigning
    them again would cost time, and random samplers would draw others.

    Rows are priors, level by level, then image by image, then in the order of the
    head's own prior generator.
    """

    methods = ('forward', 'get_targets', 'edge_distributions', 'loss_by_feat')

    @property
    def name(self) -> str:
        """How messages call it."""
        return f'{type(self.module).__name__} ({self.path!r})'

    @property
    def obstacle(self) -> str | None:
        """Why its rows cannot be distilled; ``None`` if they can."""
        return obstacle_of(self.module)

    @property
    def strides(self) -> list[tuple[int, int]]:
        """Stride of every level in pixels, (x, y)."""
        return [tuple(stride) for stride in self.module.prior_generator.strides]

    @property
    def num_priors(self) -> list[int]:
        """Priors per location, level by level."""
        return list(self.module.prior_generator.num_base_priors)

    @property
    def num_classes(self) -> int:
        """Number of classes, without a background."""
        return self.module.num_classes

    @property
    def num_logits(self) -> int:
        """Class logits of a prior; a softmax has one more for the background."""
        return self.module.cls_out_channels

    @property
    def bins(self) -> int | None:
        """Bins of an edge's distribution; ``None`` if the head predicts none."""
        distributional = isinstance(self.module, GFLHead) or hasattr(
            self.module, 'edge_distributions'
        )
        return self.module.reg_max + 1 if distributional else None

    @property
    def bin_sizes(self) -> list[list[float]]:
        """Pixels per bin, of every level and prior of a location."""
        if hasattr(self.module, 'bin_sizes'):
            return self.module.bin_sizes
        return [
            [float(stride[0])] * count
            for stride, count in zip(self.strides, self.num_priors)
        ]

    def tensors(self, fields: Iterable[str] | None = None) -> list[Tensor]:
        if fields is None:
            return super().tensors()
        return [tensor for field in fields for tensor in getattr(self, field)]

    @property
    def logits(self) -> list[Tensor]:
        self._check_computed('logits')
        outputs = self._outputs
        width = getattr(self.module, 'cls_out_channels', 1)  # CenterNet has none
        # YOLOv3 returns maps of boxes, objectness and classes in one.
        if len(outputs) < 2 or any(m.shape[1] % width for m in outputs[0]):
            raise ValueError(f'{self.name} has no class logits of their own')
        return list(outputs[0])

    @property
    def boxes(self) -> list[Tensor]:
        """Box deltas or edge distributions, (N, A * 4 * bins, H, W) per level."""
        self._check_computed('boxes')
        return list(self._outputs[1])

    @property
    def distributions(self) -> list[Tensor]:
        """Logits of the edges' bins, (N, A * 4 * bins, H, W) per level."""
        if self.bins is None:
            raise ValueError(f'{self.name} predicts no distributions of edges')
        self._check_computed('distributions')
        announced = self.calls.get('edge_distributions')
        return announced[-1].output if announced else list(self._outputs[1])

    @cached_property
    def edge_rows(self) -> Tensor:
        """Logits of the bins of left, top, right and bottom edge, (rows, 4, bins)."""
        assert self.bins is not None
        return rows_of(self.distributions, 4 * self.bins).unflatten(1, (4, self.bins))

    @property
    def expected_boxes(self) -> Tensor:
        """Boxes of the expected edges in input pixels, (rows, 4), detached."""
        assert self.bins is not None
        chance = self.edge_rows.detach().float().softmax(2)
        # Not a product of matrices: autocast would compute that in half precision.
        edges = (chance * torch.arange(self.bins, device=chance.device)).sum(2)
        images = len(self.logits[0])
        boxes = []
        for prior, sizes in zip(self.priors, self.bin_sizes):
            size = prior.new_tensor(sizes).repeat(len(prior) // len(sizes))
            centre = (prior[:, :2] + prior[:, 2:]) / 2
            boxes.append(torch.cat([centre, size[:, None]], 1).repeat(images, 1))
        place = torch.cat(boxes)
        centre, distances = place[:, :2], edges * place[:, 2:]
        return torch.cat([centre - distances[:, :2], centre + distances[:, 2:]], 1)

    @cached_property
    def class_rows(self) -> Tensor:
        """Class logits, one row per prior: (rows, C)."""
        return rows_of(self.logits, self.module.cls_out_channels)

    def edges_of(self, index: Tensor) -> Tensor:
        """:attr:`edge_rows` of some rows, ascending: (n, 4, bins)."""
        assert self.bins is not None
        picked = picked_rows(self.distributions, 4 * self.bins, index)
        return picked.unflatten(1, (4, self.bins))

    def classes_of(self, index: Tensor) -> Tensor:
        """:attr:`class_rows` of some rows, ascending: (n, C)."""
        return picked_rows(self.logits, self.module.cls_out_channels, index)

    @property
    def class_maps(self) -> list[Tensor]:
        """:attr:`class_rows` as they lie in memory: (N, A, C, H, W) per level."""
        width = self.module.cls_out_channels
        return [m.unflatten(1, (-1, width)) for m in self.logits]

    def as_maps(self, rows: Tensor) -> list[Tensor]:
        """Values of rows, (rows,), beside :attr:`class_maps`: (N, A, 1, H, W)."""
        return as_maps(rows, self.logits, self.module.cls_out_channels)

    @property
    def scores(self) -> Tensor:
        """Class probabilities without a background's, detached, (rows, classes)."""
        return self._probabilities(self.class_rows)

    def scores_of(self, index: Tensor) -> Tensor:
        """:attr:`scores` of some rows, ascending: (n, classes)."""
        return self._probabilities(self.classes_of(index))

    def _probabilities(self, logits: Tensor) -> Tensor:
        logits = logits.detach().float()
        if self.module.use_sigmoid_cls:
            return logits.sigmoid()
        return logits.softmax(1)[:, : self.num_classes]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every level's map."""
        return [(m.shape[2], m.shape[3]) for m in self._outputs[0]]

    @cached_property
    def priors(self) -> list[Tensor]:
        """Prior boxes of every level in input pixels, (P, 4).

        A point becomes the square of 8 strides around it, ATSS's anchor.
        """
        grids = self.module.prior_generator.grid_priors(
            self.sizes, device=self.logits[0].device
        )
        boxes = []
        for grid, stride in zip(grids, self.strides):
            prior = get_box_tensor(grid)
            if prior.shape[1] == 2:
                half = prior.new_tensor(stride) * 4
                prior = torch.cat([prior - half, prior + half], 1)
            boxes.append(prior)
        return boxes

    @property
    def origins(self) -> list[list[float]]:
        """Centre of the first prior of every level in pixels: edges count from it."""
        return [((p[0, :2] + p[0, 2:]) / 2).tolist() for p in self.priors]

    def valid_priors(self, batch: Batch) -> list[Tensor]:
        """Which priors lie in an image and not in the batch's padding.

        Args:
            batch: The batch that the head saw.

        Returns:
            Boolean mask over the priors of all levels for every image, (P,).
        """
        known: dict[tuple[int, ...], Tensor] = {}  # most images of a batch are alike
        shapes = [
            tuple(getattr(sample, 'pad_shape', batch.inputs.shape[2:]))
            for sample in batch.data_samples
        ]
        for shape in set(shapes):
            valid = self.module.prior_generator.valid_flags(
                self.sizes, shape, device=self._outputs[0][0].device
            )
            known[shape] = torch.cat(valid)
        return [known[shape] for shape in shapes]

    def to_rows(self, values: Tensor) -> Tensor:
        """Values per image and prior in the order of the rows.

        Args:
            values: Shape (N, P), the priors of all levels.

        Returns:
            Shape (N * P,).
        """
        counts = [len(prior) for prior in self.priors]
        return torch.cat([part.reshape(-1) for part in values.split(counts, 1)])

    @property
    def levels(self) -> Tensor:
        """Level of every row, (rows,)."""
        counts = [m[:, 0].numel() for m in self.logits]
        rows = torch.tensor(counts) * torch.tensor(self.num_priors)
        level = torch.arange(len(rows)).repeat_interleave(rows)
        return level.to(self.logits[0].device)

    @property
    def stages(self) -> list[DenseHeadView]:
        """Where two-stage heads have stages, a dense head is its own only one."""
        return [self]

    @property
    def weight(self) -> float:
        """Factor of the stage's losses in the total."""
        return 1.0

    @property
    def is_sigmoid(self) -> bool:
        """Whether every class logit is a classifier of its own."""
        return self.module.use_sigmoid_cls

    @property
    def is_class_specific(self) -> bool:
        """Whether every class has a box of its own."""
        return False

    @property
    def has_background(self) -> bool:
        """Whether the last logit is that of the background."""
        return self.num_logits > self.num_classes

    @property
    def units(self) -> BoxUnits | None:
        """In what boxes are predicted; ``None`` unless they are deltas of anchors."""
        return units_of(getattr(self.module, 'bbox_coder', None))

    @property
    def anchors(self) -> list[list[list[float]]] | None:
        """Priors of a location, level by level, (x1, y1, x2, y2); points have none."""
        base = getattr(self.module.prior_generator, 'base_anchors', None)
        return None if base is None else [anchors.tolist() for anchors in base]

    @property
    def _box_width(self) -> int:
        priors = self._outputs[0][0].shape[1] // self.module.cls_out_channels
        return self.boxes[0].shape[1] // priors

    @property
    def box_rows(self) -> Tensor:
        """Box outputs, one row per prior: (rows, 4 * bins)."""
        return rows_of(self.boxes, self._box_width)

    def deltas(self, index: Tensor, labels: Tensor) -> Tensor:
        """Predicted boxes of some rows in :attr:`units`, (n, 4).

        Args:
            index: The rows, ascending, (n,).
            labels: Class of every one of them; a dense head has one box for all.
        """
        return picked_rows(self.boxes, self._box_width, index)

    def true_deltas(self, index: Tensor) -> Tensor:
        """True boxes of some rows in :attr:`units`, (n, 4)."""
        targets = self.box_targets[index]
        if not self.module.reg_decoded_bbox:
            return targets
        # The stock loss takes boxes.
        return self.module.bbox_coder.encode(self.prior_rows[index], targets)

    @property
    def prior_rows(self) -> Tensor:
        """Prior box of every row in input pixels, (rows, 4)."""
        images = len(self.logits[0])
        return torch.cat([prior.repeat(images, 1) for prior in self.priors])
