"""NetAug: a tiny network trained inside of larger ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn
from torch.optim import Optimizer

from ..distill import Distill
from ..extended import Extended, build_stock
from ..registry import MODELS
from ..rng import preserved_rng
from .augmentation import Augmentation
from .sorting import sort_channels

__all__ = ['NetAug']


@MODELS.register_module()
class NetAug(Extended):
    """A stock model that is trained as itself and as a part of wider networks.

    A tiny network underfits: what helps it is not to regularise it but to give it more
    to learn from. In every step the model yields its losses, and a sub-network that
    contains it, drawn anew, yields its own; both are minimised. The weights of the
    model are the leading part of the wider ones. What is added is trained beside it
    and left out of ``state_dict()``: the trained model is the stock model, of its
    size and speed.

    Building it gives an instance of a subclass of *the model's own class*, as
    :class:`~mmkd.distill.Distill` does; the two can be put on each other, the teacher
    around it.

    Reference:
        Cai et al., Network Augmentation for Tiny Deep Learning, ICLR 2022,
        https://arxiv.org/abs/2110.08890

    Args:
        model: Config of the stock model, or the model. Its backbone is of blocks of
            MobileNetV2, ResNet, CSPDarknet or CSPNeXt.
        expand: Factors of the channels in the middle of a block, which each block
            draws from in every step.
        width: Factors of the channels between blocks, such as (1, 1.8, 2.6), for
            backbones of MobileNetV2 and ResNet: of the stem, of what blocks yield, of
            the last convolution, with the convolutions behind the backbone that read
            them; blocks with a shortcut yield as many as they read. In the first
            half of the training, as the authors do; ``None`` for never.
        aug_weight: Factor of the wider network's losses; with 0 the training is the
            stock one bit for bit.
        shared_statistics: Whether the model's BatchNorms keep the running statistics
            of both passes, as the authors' code does, and not of the model alone.
        data_preprocessor: Used where the model's config has none.

    Attributes:
        netaug: The :class:`~mmkd.netaug.augmentation.Augmentation`.

    Raises:
        ValueError: For whatever does not fit, when the model is built.
        TypeError: For arguments of a wrong type.

    Example:
        >>> from mmengine.registry import DefaultScope
        >>> from mmkd.config import load_config
        >>> stock = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py').model
        >>> with DefaultScope.overwrite_default_scope('mmdet'):
        ...     model = NetAug(stock)
        >>> type(model).__name__, next(iter(model.netaug.layout.groups))
        ('NetAug[YOLOX]', 'backbone.stage1.1.blocks.0')
        >>> any('netaug' in key for key in model.state_dict())
        False
    """

    added = 'netaug'
    netaug: Augmentation

    def __new__(
        cls,
        model: Mapping[str, Any] | nn.Module,
        expand: Sequence[float] = (1, 1.6, 2.2, 2.8),
        width: Sequence[float] | None = None,
        aug_weight: float = 1.0,
        shared_statistics: bool = False,
        data_preprocessor: Any = None,
    ) -> NetAug:
        built: Any = build_stock(model, 'model', data_preprocessor)
        if isinstance(built, Distill):
            raise ValueError(
                'model of NetAug must be a stock model but has a teacher; put the '
                "teacher around it: student=dict(type='mmkd.NetAug', model=...)"
            )
        if isinstance(built, NetAug):
            raise ValueError('model of NetAug must be a stock model but is a NetAug')
        return cls.extend(built)

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        expand: Sequence[float] = (1, 1.6, 2.2, 2.8),
        width: Sequence[float] | None = None,
        aug_weight: float = 1.0,
        shared_statistics: bool = False,
        data_preprocessor: Any = None,
    ) -> None:
        # The stock __init__ has run in __new__. Whatever follows must not move the
        # random state: training with weight 0 is stock training.
        with preserved_rng():
            self.add(Augmentation(self, expand, width, aug_weight, shared_statistics))
        print_log(f'mmkd: NetAug of {self.netaug.summary()}', logger='current')

    def training_step(self, run: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The stock losses, and those of a wider network with ``aug_`` before them."""
        if self._is_stepping:  # `loss` called by `forward`
            return run(*args, **kwargs)
        self._is_stepping = True
        try:
            return self.netaug.step(self, run, args, kwargs)
        finally:
            self._is_stepping = False

    def sort_channels(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Sort the middle channels; see :func:`mmkd.netaug.sorting.sort_channels`.

        Args:
            optimizers: Whose moments go with the weights.
        """
        sort_channels(self, self.netaug.extensions, self.netaug.layout, optimizers)

    _is_stepping = False
