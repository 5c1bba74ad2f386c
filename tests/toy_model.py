"""A toy model with mmengine's interface.

Not in conftest.py: there are several of that name, and pickle looks classes up by
the name of their module.
"""

from collections import OrderedDict

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn


class ToyNeck(nn.Module):
    """Two levels of one width, as a feature pyramid has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(width, width, 1)
        self.down = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.lateral(x)
        return x, self.down(x)


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """Trunk, neck and a classifier of 5 classes with mmengine's interface."""

    def __init__(self, width: int = 4, norm: type = nn.BatchNorm2d, **kwargs) -> None:
        super().__init__(**kwargs)
        self.backbone = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, width, 3, stride=2, padding=1),
                norm=norm(width),
                relu=nn.ReLU(),
            )
        )
        self.neck = ToyNeck(width)
        self.head = nn.Linear(width, 5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        levels = self.neck(self.backbone(inputs))
        logits = self.head(levels[-1].mean((2, 3)))
        return dict(loss_cls=logits.square().mean()) if mode == 'loss' else logits
