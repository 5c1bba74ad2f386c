"""A convolutional segmentor learns from a transformer whose maps have other strides."""

import copy

import pytest
import torch
from tiny_models import build, segmentation_batch, tiny_pspnet, total, zoo

from mmkd.config import distill_config

SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
HINT = dict(type='mmkd.FeatureImitationLoss', at='backbone')


def segformer():
    """Strides of 4, 8, 16 and 32; PSPNet's ResNet has 4, 8, 8 and 8."""
    cfg = copy.deepcopy(zoo(SEGFORMER))
    cfg.model.pretrained = None
    cfg.model.backbone.update(embed_dims=8, num_layers=[1] * 4, init_cfg=None)
    cfg.model.decode_head.update(
        in_channels=[8, 16, 40, 64],
        channels=16,
        num_classes=4,
        norm_cfg=dict(type='BN'),
    )
    cfg.model.data_preprocessor.size = (64, 64)
    return cfg


def distilled(**settings):
    entry = dict(config=segformer(), checkpoint=None, allow_random=True)
    losses = dict(loss_hint={**HINT, **settings})
    return build(distill_config(tiny_pspnet(), entry, losses).model, 'mmseg')


@pytest.mark.parametrize(
    ('settings', 'levels'),
    [(dict(resize='bilinear'), 4), (dict(levels=[[0, 0], [3, 1]]), 2)],
    ids=['resize', 'levels'],
)
def test_two_steps_of_training(settings, levels):
    model = distilled(**settings).train()
    adapter = model.distiller.losses.loss_hint.adapter
    assert len(adapter.convs) == levels
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values = []
    for _ in range(2):
        data = model.data_preprocessor(segmentation_batch(), True)
        losses = model(**data, mode='loss')
        values.append(losses['loss_hint'].item())
        optimizer.zero_grad()
        losses['loss_hint'].backward(retain_graph=True)
        assert model.backbone.stem[0].weight.grad.abs().sum() > 0
        assert all(conv.weight.grad.abs().sum() > 0 for conv in adapter.convs)
        optimizer.zero_grad()
        assert total(losses).isfinite()
        total(losses).backward()
        optimizer.step()
    assert values[0] > 0
    assert values[1] != values[0]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [({}, "level 2: .*maps of one size .*resize='bilinear'"),
     (dict(levels='stride'), 'levels of different sizes .* give pairs')],
)  # fmt: skip
def test_other_strides_are_an_error_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        distilled(**settings)
