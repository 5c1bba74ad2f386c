"""Any model with mmengine's interface: the ways in which such models are written."""

import copy

import pytest
import torch
from mmengine.model import BaseModel
from tiny_models import build, tiny_gfl
from torch import nn

from mmkd.distill import Distill

HINT = dict(type='mmkd.FeatureImitationLoss', at='body')


class Plain(BaseModel):
    def __init__(self, width=2):
        super().__init__()
        self.body = nn.Conv2d(3, width, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.act(self.body(inputs))
        return dict(loss_own=features.mean()) if mode == 'loss' else features


class LossIsAModule(Plain):
    def __init__(self, width=2):
        super().__init__(width)
        self.loss = nn.MSELoss()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.act(self.body(inputs))
        if mode != 'loss':
            return features
        return dict(loss_own=self.loss(features, torch.zeros_like(features)))


class LossIsAHelper(Plain):
    def loss(self, outputs, data_samples):
        return dict(loss_own=outputs.mean())

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.act(self.body(inputs))
        return self.loss(features, data_samples) if mode == 'loss' else features


class AnyArguments(Plain):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def distilled(kind, **hint):
    torch.manual_seed(0)
    return Distill(
        student=kind(), teacher=kind(5), losses=dict(loss_hint=dict(HINT, **hint))
    )


@pytest.mark.parametrize('kind', [Plain, LossIsAModule, LossIsAHelper, AnyArguments])
def test_trains_and_predicts(kind):
    model = distilled(kind)
    stock = kind()
    stock.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 4, 4)
    losses = model(x, [1, 2], mode='loss')
    assert losses['loss_hint'] > 0
    assert torch.equal(losses['loss_own'], stock(x, [1, 2], mode='loss')['loss_own'])
    assert torch.equal(model(x), stock(x))
    assert copy.deepcopy(model)(x, None, mode='loss').keys() == losses.keys()


@pytest.mark.parametrize('kind', [Plain, LossIsAModule, LossIsAHelper])
def test_the_mode_may_be_given_by_position(kind):
    losses = distilled(kind)(torch.randn(2, 3, 4, 4), None, 'loss')
    assert losses.keys() == {'loss_own', 'loss_hint'}


def test_in_place_operations_behind_a_tap_change_nothing():
    """Student and teacher are one network: the distance at every tap is 0."""
    student = build(tiny_gfl().model, 'mmdet')
    taps = ['backbone.conv1', 'backbone.bn1', 'backbone.layer1.1.bn2', 'backbone']
    losses = {
        f'loss_{i}': dict(type='mmkd.ChannelWiseDivergenceLoss', at=at)
        for i, at in enumerate(taps)
    }
    teacher = copy.deepcopy(student)
    model = Distill(student=student, teacher=teacher, losses=losses).eval()
    values = model.distiller.step(
        model, lambda x: dict(loss=model.extract_feat(x)[0].sum()), (images(),), {}
    )
    for name in losses:
        assert values[name].item() == pytest.approx(0, abs=1e-7), name


def test_a_copy_of_another_precision_trains():
    model = distilled(Plain)
    twin = copy.deepcopy(model).double()
    losses = twin(torch.randn(2, 3, 4, 4).double(), None, mode='loss')
    assert losses['loss_hint'].isfinite()
    assert next(model.distiller.teacher.model.parameters()).dtype == torch.float32


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
