"""What all tests share: fixed seeds, the devices of this machine, a toy model."""

import random

import numpy as np
import pytest
import torch
from toy_model import ToyModel

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


@pytest.fixture
def toy_model() -> type[ToyModel]:
    """The class; configs name it by ``type='mmengine.ToyModel'``."""
    return ToyModel
