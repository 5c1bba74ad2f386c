"""The channels between blocks, in the first half of the training."""

import copy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from tiny_models import detection_batch, segmentation_batch, tiny_gfl, tiny_pspnet, zoo
from torch import nn
from wide_twin import wide_twin

from mmkd import NetAug
from mmkd.config import load_config

WIDTH = (1, 1.8, 2.6)


def mobile():
    """GFL on MobileNetV2 0.25, of MMDetection's class."""
    cfg = load_config('mmkd::hint/gfl_mbv2-025_bccd.py').model
    return cfg


def residual():
    return copy.deepcopy(tiny_gfl()).model


def segmentor():
    """Semantic FPN on MMSegmentation's MobileNetV2."""
    cfg = load_config('mmkd::skds/fpn_mbv2-025_camvid.py').model
    cfg.data_preprocessor.size = (64, 64)
    return cfg


def built(cfg, scope='mmdet', **options):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return NetAug(cfg, **dict(dict(width=WIDTH), **options))


MODELS_OF = [(mobile, 'mmdet'), (residual, 'mmdet'), (segmentor, 'mmseg')]


def batch_of(model, scope):
    raw = detection_batch() if scope == 'mmdet' else segmentation_batch()
    return model.data_preprocessor(raw, True)


@MODELS.register_module(force=True)
class MeansNet(BaseModel):
    """A classifier: a linear layer on the means over the positions of all maps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MODELS.build(
            dict(type='mmdet.MobileNetV2', widen_factor=0.1, out_indices=(7,))
        )
        self.head = nn.Linear(1280, 5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'tensor':
            return scores
        labels = torch.zeros(len(scores), dtype=torch.long)
        return dict(loss=nn.functional.cross_entropy(scores, labels))


def test_the_linear_layer_of_a_classifier_reads_wider_maps():
    model = built(dict(type='MeansNet'), expand=(1, 1.6)).train()
    assert model.netaug.layout.convs['head'] == ('backbone.conv2 (output)', None)
    largest = {g.name: max(g.factors) for g in model.netaug.layout.groups.values()}
    pictures = torch.randn(2, 3, 64, 64)
    for factors in ({}, largest):
        twin = wide_twin(model, factors)
        with model.netaug.widened(model, factors):
            found = model(pictures)
        expected = twin(pictures)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    losses = model(pictures, [0, 0], mode='loss')
    sum(losses.values()).backward()
    assert model.netaug.extensions.head.columns.weight.grad.abs().sum() > 0
    MODELS.build(dict(type='MeansNet')).load_state_dict(model.state_dict())


@pytest.mark.parametrize(('make', 'scope'), MODELS_OF)
def test_a_wider_network_is_the_one_that_is_built_so(make, scope):
    model = built(make(), scope).train()
    largest = {g.name: max(g.factors) for g in model.netaug.layout.groups.values()}
    small = {name: 1.8 if 'output' in name else 1.6 for name in largest}
    pictures = torch.randn(2, 3, 64, 64)
    for factors in (largest, small):
        twin = wide_twin(model, factors)
        with model.netaug.widened(model, factors):
            found = model.extract_feat(pictures)
        for one, other in zip(found, twin.extract_feat(pictures), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('make', 'scope'), MODELS_OF)
def test_its_losses_reach_all_that_is_added(make, scope):
    cfg = make()
    model = built(cfg, scope).train()
    with DefaultScope.overwrite_default_scope(scope):
        stock = MODELS.build(cfg)
    stock.load_state_dict(model.state_dict())
    data = batch_of(model, scope)
    torch.manual_seed(1)
    theirs = stock.train()(**copy.deepcopy(data), mode='loss')
    torch.manual_seed(1)
    losses = model(**data, mode='loss')
    for name, value in theirs.items():
        pairs = (
            zip(torch.stack([*value]), torch.stack([*losses[name]]))
            if isinstance(value, list)
            else [(value, losses[name])]
        )
        assert all(torch.equal(one, other) for one, other in pairs)
    model.parse_losses(losses)[0].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    # MobileNetV2's last convolution is not used by these models, stock ones neither.
    assert all('backbone.conv2.' in name for name in without)


def test_blocks_with_a_shortcut_yield_what_they_read():
    layout = built(mobile()).netaug.layout
    read, mid = layout.convs['backbone.layer2.1.expand_conv.conv']
    assert layout.convs['backbone.layer2.1.linear_conv.conv'] == (mid, read)
    assert layout.convs['backbone.layer3.0.linear_conv.conv'][1] != read
    # What reads the backbone's maps reads more, too.
    outside = {path for path in layout.convs if not path.startswith('backbone.')}
    assert outside == {f'neck.lateral_convs.{i}.conv' for i in range(3)}


def test_only_in_the_first_half_of_the_training():
    netaug = built(mobile()).netaug
    hub = MessageHub.get_current_instance()
    try:
        hub.update_info('max_iters', 10)
        for iteration in (0, 4):
            hub.update_info('iter', iteration)
            drawn = netaug.sample()
            assert any(drawn[name] > 1 for name in netaug.layout.stream)
        hub.update_info('iter', 5)
        drawn = netaug.sample()
        assert all(drawn[name] == 1 for name in netaug.layout.stream)
        assert any(factor > 1 for factor in drawn.values())
    finally:
        for name in ('iter', 'max_iters'):
            hub.pop_info(name, None)


@pytest.mark.parametrize(
    ('make', 'scope', 'message'),
    [
        (
            lambda: zoo('mmdet::yolox/yolox_nano_8xb8-300e_coco.py').model,
            'mmdet',
            'but for backbones of MobileNetV2 and ResNet .*CSPDarknet is another',
        ),
        (
            lambda: tiny_gfl(backbone=dict(frozen_stages=1)).model,
            'mmdet',
            'cannot be wider: backbone.layer1.0, it is frozen',
        ),
        (
            lambda: (
                zoo('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py').model
            ),
            'mmdet',
            'a convolution of groups reads maps of the backbone, as bbox_head',
        ),
        (
            lambda: tiny_pspnet().model,
            'mmseg',
            'width must be None',  # a pooled copy of the map is read beside it
        ),
    ],
)
def test_what_cannot_be_wider_is_an_error_when_built(make, scope, message):
    with pytest.raises(ValueError, match=message):
        built(copy.deepcopy(make()), scope)


def test_channels_that_no_factor_makes_more_stay():
    """The stem has 32 channels, and 5 % more are 32 again."""
    model = built(mobile(), width=(1, 1.05))
    data = batch_of(model, 'mmdet')
    assert model.train()(**data, mode='loss')
    groups = model.netaug.layout.groups.values()
    assert all(group.largest > group.channels for group in groups)
    assert len(model.netaug.layout.stream) < len(built(mobile()).netaug.layout.stream)


@pytest.mark.parametrize('width', [(1, 1), (0.5,), ()])
def test_factors_are_at_least_1(width):
    with pytest.raises(ValueError, match='width must be finite factors of at least 1'):
        built(mobile(), width=width)


# Sorting.
def trained(model, steps=2):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        losses = model(**batch_of(model, 'mmdet'), mode='loss')
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize('make', [mobile, residual])
def test_sorting_changes_the_model_and_not_the_widest_network(make):
    model = built(make()).train()
    optimizer = trained(model)
    layout = model.netaug.layout
    largest = {g.name: max(g.factors) for g in layout.groups.values()}
    pictures = torch.randn(2, 3, 64, 64)

    def outputs(factors):
        with torch.no_grad(), model.netaug.widened(model, factors):
            return model.extract_feat(pictures)

    def moved():
        state = optimizer.state
        return sum(
            state[p]['exp_avg'].abs().sum()
            for p in model.parameters()
            if 'exp_avg' in state[p]
        )

    wide_before, own_before, moments = outputs(largest), outputs({}), moved()
    model.sort_channels([optimizer])
    for one, other in zip(outputs(largest), wide_before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    changed = [not torch.allclose(a, b) for a, b in zip(outputs({}), own_before)]
    assert all(changed)
    torch.testing.assert_close(moved(), moments)
    # Each weight has the moments that it had: sorting again changes nothing.
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.sort_channels([optimizer])
    for name, p in model.named_parameters():
        assert torch.equal(p, state[name])


def test_channels_are_in_the_order_of_what_is_made_of_them():
    model = built(mobile())
    model.sort_channels()
    largest = {g.name: max(g.factors) for g in model.netaug.layout.groups.values()}
    with model.netaug.widened(model, largest):
        for block in (model.backbone.layer2[0], model.backbone.layer7[0]):
            norms = block.linear_conv.conv.weight.abs().sum((0, 2, 3))
            assert (norms.diff() <= 1e-6).all()


def test_moments_go_with_their_weights():
    """What is twice the weight before is twice the weight after."""
    model = built(mobile())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]['momentum_buffer'] = 2 * p.detach().clone()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.sort_channels([optimizer])
    changed = 0
    for name, p in model.named_parameters():
        assert torch.equal(optimizer.state[p]['momentum_buffer'], 2 * p)
        changed += not torch.equal(p, before[name])
    assert changed > 50
