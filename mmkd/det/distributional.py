"""Heads of other detectors with a distribution per box edge, as GFL has.

The last convolution of the box branch predicts the bins of every edge and
returns their expectation. So whatever stands behind it, losses, targets and
prediction, is the stock head's code, and any head whose regression is a distance
from the prior to an edge can be made distributional this way.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import ATSSHead, FCOSHead, RetinaHead
from mmdet.registry import MODELS as DET_MODELS
from mmdet.structures.bbox import distance2bbox, get_box_tensor
from torch import Tensor, nn

from ..losses.head_rows import total_over_ranks
from ..registry import MODELS
from ..taps import Tap, record
from .views import DenseHeadView

#: Bins per side of an anchor: for ATSS's anchors of 8 strides a bin is a stride,
#: which makes them GFL's distributions.
BINS_PER_SIDE = 8


class DistributionConv2d(nn.Conv2d):
    """A convolution that predicts distributions and returns their expectations.

    Args:
        like: The convolution it stands for; one channel per edge.
        reg_max: Largest value of an edge; there are ``reg_max + 1`` bins.
        unit: What one bin is in the head's own unit.
    """

    project: Tensor

    def __init__(self, like: nn.Conv2d, reg_max: int, unit: float) -> None:
        super().__init__(
            like.in_channels,
            like.out_channels * (reg_max + 1),
            like.kernel_size,  # type: ignore[arg-type]
            padding=like.padding,  # type: ignore[arg-type]
            bias=like.bias is not None,
        )
        # Not in the checkpoint: it follows from the config.
        values = torch.arange(reg_max + 1.0) * unit
        self.register_buffer('project', values, persistent=False)

    def distribution(self, features: Tensor) -> Tensor:
        """Logits of the bins, (N, edges * bins, H, W)."""
        return super().forward(features)

    def forward(self, features: Tensor) -> Tensor:
        """Expected values of the edges, (N, edges, H, W)."""
        logits = self.distribution(features).float()
        chance = logits.unflatten(1, (-1, len(self.project))).softmax(2)
        # Not a product of matrices: autocast would compute that in half precision.
        return (chance * self.project.float()[:, None, None]).sum(2)


class _Distribution(Tap):
    methods = ('forward', 'distribution')


class DistributionalHead(nn.Module):
    """Mixin that makes a dense head predict a distribution per edge.

    The distributions are trained with the distribution focal loss on the
    positives, weighted by the highest class score as in GFL, beside the head's
    own losses. Checkpoints of the stock head do not fit, and need ``import
    mmkd`` to be used.

    Reference:
        Li et al., Generalized Focal Loss, NeurIPS 2020,
        https://arxiv.org/abs/2006.04388

    Args:
        reg_max: Largest value of an edge in bins.
        loss_dfl: Config of the distribution focal loss.
    """

    #: The convolution that predicts boxes.
    regressor: str
    #: What one bin is in the unit of the head's regression targets.
    unit: float
    reg_max: int

    def __init__(
        self, *args: Any, reg_max: int = 16, loss_dfl: Any = None, **kwargs: Any
    ) -> None:
        if reg_max < 1:
            raise ValueError(f'reg_max must be >= 1 but is {reg_max}')
        self.reg_max = reg_max  # layers are made in super()
        super().__init__(*args, **kwargs)
        self.loss_dfl = DET_MODELS.build(
            loss_dfl or dict(type='DistributionFocalLoss', loss_weight=0.25)
        )

    def _init_layers(self) -> None:
        super()._init_layers()  # type: ignore[misc]
        conv = getattr(self, self.regressor)
        setattr(self, self.regressor, DistributionConv2d(conv, self.reg_max, self.unit))
        # A learned scale of a level would scale the bins.
        scales: Any = getattr(self, 'scales', ())
        if len(scales):
            self.scales = nn.ModuleList(nn.Identity() for _ in scales)

    def edge_distributions(self, logits: list[Tensor]) -> list[Tensor]:
        """Where views pick up the distributions of all levels: returns them."""
        return logits

    def forward(self, *args: Any) -> Any:
        """The stock outputs; the distributions on the way."""
        with record(self, {self.regressor: _Distribution}) as taps:
            outputs = super().forward(*args)
        calls = taps[self.regressor].calls['distribution']
        self.edge_distributions([call.output for call in calls])
        return outputs

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The stock losses and ``loss_dfl``."""
        with record(self, {'': DenseHeadView}) as taps:
            losses = super().loss(*args, **kwargs)  # type: ignore[misc]
        losses['loss_dfl'] = self._distribution_focal_loss(taps[''])
        return losses

    def loss_and_predict(self, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """The same with proposals, where the head is a region proposal network."""
        with record(self, {'': DenseHeadView}) as taps:
            losses, found = super().loss_and_predict(*args, **kwargs)  # type: ignore[misc]
        losses['loss_dfl'] = self._distribution_focal_loss(taps[''])
        return losses, found

    def _distribution_focal_loss(self, view: Any) -> Tensor:
        index = view.positives.nonzero().squeeze(1)
        weight = view.scores_of(index).amax(1)
        # Stock DFL wants targets below the last bin.
        targets = self.edge_targets(view, index).clamp(0, self.reg_max - 0.1)
        return self.loss_dfl(
            view.edges_of(index).float().flatten(0, 1),
            targets.flatten(),
            weight=weight.repeat_interleave(4),
            avg_factor=4 * total_over_ranks(weight),
        )

    def edge_targets(self, view: Any, index: Tensor) -> Tensor:
        """True edges of some rows in bins, (R, 4)."""
        return view.box_targets[index] / self.unit


class EdgeDistanceCoder:
    """Boxes as distances from an anchor's centre, in sides of the anchor.

    The side of an anchor of another shape than a square is the root of its area.

    Args:
        clip_border: Whether boxes end at the border of the image.
    """

    encode_size = 4

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(self, priors: Any, boxes: Any) -> Tensor:
        """Distances of the edges, (N, 4), in sides of the priors (N, 4)."""
        centres, side = _centres_and_sides(priors)
        edges = get_box_tensor(boxes)
        distances = torch.cat([centres - edges[..., :2], edges[..., 2:] - centres], -1)
        return distances / side

    def decode(self, priors: Any, distances: Tensor, max_shape: Any = None) -> Tensor:
        """Boxes (N, 4) of distances (N, 4) from priors (N, 4)."""
        centres, side = _centres_and_sides(priors)
        limit = max_shape if self.clip_border else None
        return distance2bbox(centres, distances * side, limit)


def _centres_and_sides(priors: Any) -> tuple[Tensor, Tensor]:
    boxes = get_box_tensor(priors)
    size = boxes[..., 2:] - boxes[..., :2]
    return (boxes[..., :2] + boxes[..., 2:]) / 2, size.prod(-1, keepdim=True).sqrt()


class _AnchorHead(DistributionalHead):
    """What anchor-based heads share: the config's box coder is replaced."""

    unit = 1 / BINS_PER_SIDE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Deltas of centre and size have no edges.
        replaced = vars(self).get('bbox_coder')
        self.bbox_coder = EdgeDistanceCoder(getattr(replaced, 'clip_border', True))

    @property
    def bin_sizes(self) -> list[list[float]]:
        """Pixels per bin, of every level and anchor of a location."""
        return [
            (_centres_and_sides(anchors)[1].flatten() / BINS_PER_SIDE).tolist()
            for anchors in self.prior_generator.base_anchors  # type: ignore[union-attr]
        ]

    def edge_targets(self, view: Any, index: Tensor) -> Tensor:
        if not self.reg_decoded_bbox:
            return super().edge_targets(view, index)
        # The stock loss takes boxes.
        edges = self.bbox_coder.encode(view.prior_rows[index], view.box_targets[index])
        return edges / self.unit


@MODELS.register_module()
class DistributionalRetinaHead(_AnchorHead, RetinaHead):
    """MMDetection's ``RetinaHead`` with a distribution per edge.

    A bin is an eighth of the anchor's side. See :class:`DistributionalHead`.
    """

    regressor = 'retina_reg'


@MODELS.register_module()
class DistributionalATSSHead(_AnchorHead, ATSSHead):
    """MMDetection's ``ATSSHead`` with a distribution per edge.

    A bin is an eighth of the anchor's side. See :class:`DistributionalHead`.
    """

    regressor = 'atss_reg'


@MODELS.register_module()
class DistributionalFCOSHead(DistributionalHead, FCOSHead):
    """MMDetection's ``FCOSHead`` with a distribution per edge.

    A bin is a stride, so distances are normalised by strides (``norm_on_bbox``)
    whatever the config says. See :class:`DistributionalHead`.
    """

    regressor = 'conv_reg'
    unit = 1.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs['norm_on_bbox'] = True
        super().__init__(*args, **kwargs)
