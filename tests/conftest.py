"""What all tests share: fixed seeds, the devices of this machine, a toy model."""

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

import mmkd  # noqa: F401  (makes mmdet and mmseg importable without compiled ops)

DEVICES = ['cpu'] + (['cuda'] if torch.cuda.is_available() else [])


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


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


@pytest.fixture
def toy_model() -> type[ToyModel]:
    """The class; configs name it by ``type='mmengine.ToyModel'``."""
    return ToyModel
