"""BatchNorm folded into convolutions: the same outputs, and only where it is right."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from mmkd.folding import Folding


def with_statistics(model):
    """Norms that have seen data: neither means of 0 nor deviations of 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.track_running_stats:
                nn.init.normal_(module.running_mean, std=0.5)
                nn.init.uniform_(module.running_var, 0.3, 3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    model.eval()  # returns nothing in stock backbones
    return model


def folded(model, x):
    """Outputs before and after, and the folding."""
    with torch.no_grad():
        before = model(x)
        folding = Folding(model, lambda: model(x))
        return before, model(x), folding


def close(before, after):
    return (before - after).abs().max() <= 1e-5 * before.abs().max()


def norms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_numbers_of_a_pair():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3.0)
    conv.bias.data.fill_(1.0)
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(5.0)
    norm.bias.data.fill_(7.0)
    model = nn.Sequential(conv, norm).eval()
    before, after, _ = folded(model, torch.ones(1, 1, 1, 1))
    # (3 * 1 + 1 - 2) / 2 * 5 + 7
    assert before.item() == after.item() == 12.0
    assert conv.weight.item() == 7.5
    assert conv.bias.item() == 4.5
    assert isinstance(model[1], nn.Identity)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('affine', [False, True])
@pytest.mark.parametrize('groups', [1, 4])
def test_every_kind_of_convolution(bias, affine, groups):
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1, groups=groups, bias=bias),
        nn.BatchNorm2d(8, affine=affine),
        nn.ReLU(inplace=True),
    )
    before, after, folding = folded(with_statistics(model), torch.randn(2, 4, 9, 7))
    assert len(folding.pairs) == 1
    assert norms(model) == 0
    assert close(before, after)
    assert not any(p.requires_grad for p in model[0].parameters())


@pytest.mark.parametrize(
    ('config', 'pairs'),
    [
        (dict(type='ResNet', depth=18, base_channels=8), 20),
        (dict(type='MobileNetV2', widen_factor=0.25), 52),
        (dict(type='ResNeXt', depth=50, groups=4, base_width=4, base_channels=8), 53),
        (dict(type='CSPDarknet', widen_factor=0.125, deepen_factor=0.33), 35),
    ],
)
def test_stock_backbones(config, pairs):
    init_default_scope('mmdet')
    model = with_statistics(MODELS.build(config))
    x = torch.randn(1, 3, 64, 64)
    count = norms(model)
    before = [y.clone() for y in model(x)]
    folding = Folding(model, lambda: model(x))
    assert len(folding.pairs) == count == pairs
    assert norms(model) == 0
    assert all(map(close, before, model(x)))
    folding.undo()
    assert norms(model) == count
    assert all(map(torch.equal, before, model(x)))


def test_conv_modules_of_mmcv():
    model = nn.Sequential(
        ConvModule(3, 8, 3, norm_cfg=dict(type='BN')),
        ConvModule(8, 8, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='Swish')),
        ConvModule(8, 4, 1, norm_cfg=dict(type='GN', num_groups=2)),
    )
    before, after, folding = folded(with_statistics(model), torch.randn(2, 3, 8, 8))
    assert len(folding.pairs) == 2
    assert close(before, after)


class Two(nn.Module):
    """One convolution for two norms, as heads share them over levels."""

    def __init__(self, conv=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(2, 2, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(2)])

    def forward(self, x):
        return self.norms[0](self.conv(x)) + self.norms[1](self.conv(x))


class Standardised(nn.Conv2d):
    """A convolution that makes its kernel from its weight."""

    def forward(self, x):
        weight = self.weight / self.weight.norm()
        return self._conv_forward(x, weight, self.bias)


class Between(nn.Sequential):
    """Something happens between convolution and norm."""

    def forward(self, x):
        return self[1](self[0](x) + 1)


@pytest.mark.parametrize(
    'model',
    [
        Two(),
        nn.Sequential(Standardised(2, 2, 1), nn.BatchNorm2d(2)),
        Between(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
        nn.Sequential(nn.ConvTranspose2d(2, 2, 1), nn.BatchNorm2d(2)),
    ],
    ids=['two norms', 'standardised', 'between', 'before', 'batch', 'transposed'],
)
def test_what_cannot_be_folded_stays(model):
    count = norms(model)
    x = torch.randn(2, 2, 4, 4)
    before, after, folding = folded(with_statistics(model), x)
    assert folding.pairs == []
    assert norms(model) == count
    assert torch.equal(before, after)


def test_a_norm_in_training_stays():
    model = with_statistics(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    model[1].train()
    assert Folding(model, lambda: model(torch.randn(2, 2, 4, 4))).pairs == []


def test_weights_that_another_module_shares_stay_its_own():
    model = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)])
    model[2].weight = model[0].weight
    with_statistics(model)
    weight = model[2].weight.clone()
    x = torch.randn(1, 2, 2, 2)
    assert len(Folding(model, lambda: model[1](model[0](x))).pairs) == 1
    assert torch.equal(model[2].weight, weight)
    assert not torch.equal(model[0].weight, weight)


def test_a_pair_that_runs_several_times():
    pair = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model = nn.Sequential(pair, nn.ReLU(), pair)
    before, after, folding = folded(with_statistics(model), torch.randn(2, 2, 4, 4))
    assert len(folding.pairs) == 1
    assert close(before, after)


def test_a_convolution_that_is_looked_at_stays():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    with_statistics(model)
    x = torch.randn(1, 2, 2, 2)
    assert Folding(model, lambda: model(x), lambda _: {model[0]}).pairs == []


def test_what_was_changed_in_place_before_the_norm_stays():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(2))
    before, after, folding = folded(with_statistics(model), torch.randn(2, 2, 4, 4))
    assert folding.pairs == []
    assert torch.equal(before, after)
