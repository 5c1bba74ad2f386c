"""Learning rates by name are the student's; layer-wise ones know of no adapter."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from tiny_models import build, segmentation_batch, zoo
from torch import nn
from toy import (
    HINT,
    ToyNet,
    distilled,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.config import distill_config

#: A log name and parameters that all of these keys are part of.
NAME = 'loss_backbone_neck_norm'
KEYS = {
    'backbone': dict(lr_mult=0.1),
    'neck': dict(lr_mult=0.2),
    'norm': dict(decay_mult=0.0),
    'bias': dict(lr_mult=2.0, decay_mult=0.0),
    'adapter': dict(lr_mult=3.0),
    'losses': dict(lr_mult=4.0),
}
SGD = dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1)


def groups(runner) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter."""
    names = {id(p): name for name, p in runner.model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in runner.optim_wrapper.optimizer.param_groups
        for p in group['params']
    }


def trained(model, folder, **keys) -> dict:
    changes = {
        'optim_wrapper.optimizer': dict(SGD),
        'optim_wrapper.paramwise_cfg': dict(custom_keys={**KEYS, **keys}),
        'train_cfg.max_epochs': 1,
    }
    return groups(train(model, folder, **changes))


def test_keys_match_the_student_alone(tmp_path):
    ours = trained(distilled({NAME: HINT}), tmp_path / 'a')
    stock = trained(student(), tmp_path / 'b')
    adapters = {k: v for k, v in ours.items() if k.startswith('distiller.')}
    assert {k: v for k, v in ours.items() if k not in adapters} == stock
    assert set(stock.values()) >= {(0.001, 0.1), (0.02, 0.0)}
    assert len(adapters) == 2
    assert set(adapters.values()) == {(0.01, 0.1)}


def test_a_key_for_the_distiller_is_for_it(tmp_path):
    ours = trained(distilled({NAME: HINT}), tmp_path, distiller=dict(lr_mult=5.0))
    adapters = [v for k, v in ours.items() if k.startswith('distiller.')]
    assert adapters == [(0.05, 0.1)] * 2


class ConvNeXtStages(nn.Module):
    """Named as what the constructor is made for; its code asks for the names only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([nn.Conv2d(3, width, 3, 2, 1)])
        self.stages = nn.ModuleList([nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())])

    def forward(self, x):
        return self.stages[0](self.downsample_layers[0](x))


@MODELS.register_module(force=True)
class ConvNeXtNet(ToyNet):
    def __init__(self, width: int = 8, **kwargs) -> None:
        super().__init__(width, **kwargs)
        self.backbone = ConvNeXtStages(width)


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_layers_of_a_convnext(decay_type, tmp_path):
    pytest.importorskip('mmdet')
    import mmdet.engine.optimizers  # noqa: F401  (registers the constructor)

    model = distilled({NAME: HINT})
    model['student']['type'] = 'ConvNeXtNet'
    changes = {
        'optim_wrapper.optimizer': dict(SGD),
        'optim_wrapper.constructor': 'mmdet.LearningRateDecayOptimizerConstructor',
        'optim_wrapper.paramwise_cfg': dict(
            decay_rate=0.5, decay_type=decay_type, num_layers=6
        ),
        'train_cfg.max_epochs': 1,
    }
    runner = train(model, tmp_path, **changes)
    found = groups(runner)
    adapter = f'distiller.losses.{NAME}.adapter.convs.0.weight'
    assert found[adapter] == found['neck.weight'] == found['head.weight']
    assert found['backbone.downsample_layers.0.weight'][0] < found[adapter][0]
    assert len(found) == len(training_state(runner)['model'])


@pytest.mark.parametrize(
    ('constructor', 'rate'),
    [
        ('LearningRateDecayOptimizerConstructor', 'decay_rate'),
        ('LayerDecayOptimizerConstructor', 'layer_decay_rate'),
    ],
)
def test_layers_of_a_beit(constructor, rate):
    """The stock config's optimizer on a small one, and a step with it."""
    pytest.importorskip('mmseg')
    name = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'

    def small(width: int):
        cfg = copy.deepcopy(zoo(name))
        model = cfg.model
        model.pretrained = model.auxiliary_head = None
        model.data_preprocessor.size = (64, 64)
        model.test_cfg = dict(mode='whole')
        model.backbone.update(
            img_size=(64, 64),
            embed_dims=width,
            num_layers=4,
            num_heads=2,
            mlp_ratio=2,
            out_indices=(0, 1, 2, 3),
        )
        model.neck.embed_dim = width
        norm = dict(type='GN', num_groups=4)
        model.decode_head.update(
            in_channels=[width] * 4, channels=16, num_classes=4, norm_cfg=norm
        )
        return cfg

    cfg = small(16)
    teacher = build(small(32).model, 'mmseg', seed=7)
    # BEiT takes one size only, which is not that of a dry run.
    adapter = dict(in_channels=[16] * 4, out_channels=32)
    hint = dict(type='mmkd.FeatureImitationLoss', at='backbone', adapter=adapter)
    model = build(distill_config(cfg, teacher, {NAME: hint}).model, 'mmseg')
    cfg.optim_wrapper.constructor = constructor
    cfg.optim_wrapper.paramwise_cfg = {'num_layers': 4, rate: 0.9}
    with DefaultScope.overwrite_default_scope('mmseg'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    held = {id(p) for g in wrapper.optimizer.param_groups for p in g['params']}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    adapter = model.distiller.losses[NAME].adapter.convs[0].weight
    before = adapter.detach().clone()
    model.train().train_step(segmentation_batch(), wrapper)
    assert not torch.equal(adapter, before)
