"""Which blocks are found, in the networks that the host libraries have."""

import copy

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.registry import MODELS
from torch import nn

from mmkd import NetAug
from mmkd.config import load_config
from mmkd.netaug.blocks import blocks_of
from mmkd.netaug.layout import Group


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def backbone(scope: str, **cfg) -> Model:
    register_all_modules(init_default_scope=False)
    import mmseg.models  # noqa: F401

    return Model(MODELS.build(dict(cfg, _scope_=scope)))


@pytest.mark.parametrize(
    ('scope', 'cfg', 'blocks', 'extended'),
    [
        # The first block of MobileNetV2 has no convolution that widens.
        ('mmdet', dict(type='MobileNetV2', widen_factor=0.35), 17, 16),
        ('mmseg', dict(type='MobileNetV2', widen_factor=0.35), 17, 16),
        ('mmdet', dict(type='ResNet', depth=18), 8, 8),
        ('mmdet', dict(type='ResNet', depth=50, frozen_stages=1), 16, 13),
        ('mmseg', dict(type='ResNetV1c', depth=50), 16, 16),
        ('mmdet', dict(type='ResNeXt', depth=50, groups=32, base_width=4), 16, 16),
        ('mmdet', dict(type='CSPDarknet', widen_factor=0.25), None, None),
        ('mmdet', dict(type='CSPDarknet', use_depthwise=True), None, None),
        ('mmdet', dict(type='CSPNeXt', widen_factor=0.375), None, None),
    ],
)
def test_every_block_is_found(scope, cfg, blocks, extended):
    model = backbone(scope, **cfg)
    found = blocks_of(model)
    if blocks is None:  # those of all CSP layers
        kinds = ('DarknetBottleneck', 'CSPNeXtBlock')
        blocks = extended = sum(type(m).__name__ in kinds for m in model.modules())
        assert blocks >= 4
    assert len(found) == blocks
    layout = NetAug(model).netaug.layout
    assert len(layout.groups) == extended
    assert len(layout.left) == blocks - extended


@pytest.mark.parametrize(
    ('cfg', 'reason'),
    [
        (dict(type='Res2Net', depth=50, scales=4, base_width=26), 'no block is of'),
        (
            dict(type='ResNet', depth=18, frozen_stages=4),
            r'backbone.layer1.0: it is frozen',
        ),
        (
            dict(type='ResNet', depth=50, norm_cfg=dict(type='IN')),
            'InstanceNorm2d is neither BatchNorm nor GroupNorm',
        ),
        (
            dict(
                type='ResNet',
                depth=50,
                plugins=[
                    dict(
                        cfg=dict(type='ContextBlock', ratio=1 / 16),
                        stages=(True,) * 4,
                        position='after_conv2',
                    )
                ],
            ),
            'it has plugins',
        ),
    ],
)
def test_what_cannot_be_extended_is_an_error_when_built(cfg, reason):
    with pytest.raises(ValueError, match=f'must find a block to extend.*{reason}'):
        NetAug(backbone('mmdet', **cfg))


def test_a_stage_with_other_convolutions_is_left_alone():
    dcn = dict(type='ConvAWS')
    model = backbone('mmdet', type='ResNet', depth=50, conv_cfg=dict(dcn))
    with pytest.raises(ValueError, match='ConvAWS2d is no plain convolution'):
        NetAug(model)


class Foreign(nn.Module):
    """A block whose normalisations have names of their own."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 8, 1)


def test_blocks_that_are_built_otherwise_are_left_alone():
    with pytest.raises(ValueError, match='its bn1 is not known'):
        NetAug(Model(nn.Sequential(Foreign())))


def test_gradient_checkpointing_is_refused():
    model = backbone('mmdet', type='ResNet', depth=18, with_cp=True)
    with pytest.raises(ValueError, match="with_cp must be False.*'backbone"):
        NetAug(model)


def test_a_model_without_a_backbone():
    with pytest.raises(ValueError, match='this one has none: 0'):
        NetAug(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize('expand', [(), (1, 1), (0.5, 2), (1, float('nan'))])
def test_factors_are_at_least_1(expand):
    with pytest.raises(ValueError, match='expand must be finite factors of at least 1'):
        NetAug(backbone('mmdet', type='ResNet', depth=18), expand=expand)


@pytest.mark.parametrize('expand', ['12', {1: 2}, ('a',), 2, (1, None)])
def test_factors_are_a_list_of_numbers(expand):
    with pytest.raises(TypeError, match='expand must be a list of factors but is'):
        NetAug(backbone('mmdet', type='ResNet', depth=18), expand=expand)


def test_scalars_are_of_their_types():
    told = dict(type='ResNet', depth=18)
    with pytest.raises(TypeError, match="aug_weight must be a number but is '1'"):
        NetAug(backbone('mmdet', **told), aug_weight='1')
    with pytest.raises(TypeError, match='shared_statistics must be True or False'):
        NetAug(backbone('mmdet', **told), shared_statistics='no')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_what_is_added_is_of_the_models_type(dtype):
    model = NetAug(backbone('mmdet', type='ResNet', depth=18).to(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize('weight', [-1.0, float('inf')])
def test_the_weight_is_not_negative(weight):
    with pytest.raises(ValueError, match='aug_weight must be finite and >= 0'):
        NetAug(backbone('mmdet', type='ResNet', depth=18), aug_weight=weight)


def test_sizes_are_multiples():
    factors = (1, 1.6, 2.2, 2.8)
    assert [Group('', 6, 1, factors).size(f) for f in factors] == [6, 16, 16, 16]
    # Whole groups of a GroupNorm or a convolution.
    sizes = [Group('', 12, 3, factors).size(f) for f in factors]
    assert sizes == [12, 18, 27, 36]
    assert Group('', 12, 3, factors).largest == 36


def test_the_teacher_goes_around_it():
    from mmkd.distill import Distill

    cfg = copy.deepcopy(load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')).model
    hint = dict(type='mmkd.FeatureImitationLoss', at='neck')
    register_all_modules(init_default_scope=True)
    taught = Distill(cfg, teacher=MODELS.build(cfg), losses=dict(loss_hint=hint))
    with pytest.raises(ValueError, match='put the teacher around it'):
        NetAug(taught)
    with pytest.raises(ValueError, match='is a NetAug'):
        NetAug(NetAug(cfg))
