"""Adapters: one 1x1 convolution or linear layer per level."""

import numpy as np
import pytest
import torch
from tiny_models import build, tiny_gfl
from torch import nn

from mmkd.adapters import FeatureImitationNeck, build_adapter


def test_every_level_has_its_own_convolution():
    neck = FeatureImitationNeck(in_channels=[2, 3], out_channels=4).double()
    x = torch.randn(2, 2, 3, 5).double(), torch.randn(2, 3, 2, 2).double()
    y = neck(x)
    assert isinstance(y, tuple)
    for level, (conv, before, after) in enumerate(zip(neck.convs, x, y)):
        weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.tolist()
        assert after.shape == (2, 4, *before.shape[2:]), level
        for n, c, i, j in np.ndindex(*after.shape):
            expected = (weight[c] * before[n, :, i, j].numpy()).sum() + bias[c]
            assert after[n, c, i, j].item() == pytest.approx(expected)


def test_widths_after_adaptation_may_differ_per_level():
    neck = FeatureImitationNeck(in_channels=[2, 3], out_channels=[5, 6])
    y = neck((torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 1, 1)))
    assert [x.shape[1] for x in y] == [5, 6]


@pytest.mark.parametrize('shape', [(2, 3), (2, 7, 3)])
def test_linear_layers_adapt_vectors_and_tokens(shape):
    neck = FeatureImitationNeck(in_channels=3, out_channels=4, layer='linear')
    x = torch.randn(shape)
    (y,) = neck((x,))
    torch.testing.assert_close(y, x @ neck.convs[0].weight.T + neck.convs[0].bias)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(in_channels=[1, 2], out_channels=[3]), 'have 2, 1 and 2'),
        (dict(in_channels=1, out_channels=[3, 4]), 'have 1, 2 and 1'),
        (dict(in_channels=1, out_channels=1, layer='mlp'), "layer must be .* 'mlp'"),
    ],
)
def test_rejects_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureImitationNeck(**arguments)


def test_rejects_another_number_of_levels():
    neck = FeatureImitationNeck(in_channels=[2, 2], out_channels=2)
    with pytest.raises(ValueError, match='adapter has 2 levels but got 1'):
        neck((torch.zeros(1, 2, 2, 2),))


def test_builds_from_a_config_with_a_default_type():
    adapter = build_adapter(dict(in_channels=2, out_channels=4))
    assert type(adapter) is FeatureImitationNeck
    assert type(build_adapter(dict(type=nn.Identity))) is nn.Identity
    with pytest.raises(KeyError, match='NoSuchAdapter'):
        build_adapter(dict(type='NoSuchAdapter'))


def test_the_config_is_left_as_it_was():
    cfg = dict(in_channels=2, out_channels=4)
    build_adapter(cfg)
    assert cfg == dict(in_channels=2, out_channels=4)


def test_serves_as_the_neck_of_a_stock_detector():
    pytest.importorskip('mmdet')
    neck = dict(
        type='mmkd.FeatureImitationNeck',
        in_channels=[8, 16, 32, 64],
        out_channels=[16, 16, 16, 16],
        _delete_=True,
    )
    model = build(tiny_gfl(neck=neck).model, 'mmdet')
    levels = model.extract_feat(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape) for x in levels] == [
        (1, 16, 16, 16),
        (1, 16, 8, 8),
        (1, 16, 4, 4),
        (1, 16, 2, 2),
    ]


def test_a_single_level_may_be_a_tensor():
    (y,) = FeatureImitationNeck(8, 4)(torch.zeros(2, 8, 4, 4))
    assert y.shape == (2, 4, 4, 4)


def test_an_init_cfg_of_its_own_is_followed():
    init = dict(type='Constant', layer='Conv2d', val=0.5, bias=0.25)
    adapter = build_adapter(dict(in_channels=2, out_channels=3, init_cfg=init))
    assert adapter.convs[0].weight.eq(0.5).all()
    assert adapter.convs[0].bias.eq(0.25).all()


def test_levels_of_different_kinds():
    neck = FeatureImitationNeck([3, 4], 5, layer=['conv', 'linear'])
    maps, vectors = neck((torch.zeros(2, 3, 6, 6), torch.zeros(2, 4)))
    assert [tuple(maps.shape), tuple(vectors.shape)] == [(2, 5, 6, 6), (2, 5)]
