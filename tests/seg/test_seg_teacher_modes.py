"""A teacher is in eval mode, yet its taps yield what they yield in training.

PIDNet's and DDRNet's backbones return one map in eval and a tuple in training, their
heads and K-Net's return the prediction alone.
"""

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from tiny_models import (
    build,
    deterministic_training,
    segmentation_batch,
    tensors,
    total,
    zoo,
)

from mmkd.batch import Batch
from mmkd.config import distill_config
from mmkd.seg.views import BranchesTap, DecodeHeadView, tap_of
from mmkd.taps import Tap, record, resolve
from mmkd.teacher import Teacher

RESNET = dict(depth=18, base_channels=8, stem_channels=8)
FCN = dict(in_channels=32, channels=8, num_classes=4)
LAST = dict(in_channels=64, channels=16, num_classes=4)


def pidnet(width: int = 8) -> dict:
    head = dict(in_channels=4 * width, channels=16, num_classes=4)
    return dict(
        backbone=dict(channels=width, ppm_channels=16, init_cfg=None),
        decode_head=head,
    )


KERNELS = dict(
    num_classes=4,
    num_ffn_fcs=2,
    num_heads=2,
    feedforward_channels=16,
    in_channels=16,
    out_channels=16,
    conv_kernel_size=1,
    kernel_updator_cfg=dict(in_channels=16, feat_channels=16, out_channels=16),
)
#: Name -> config, what to shrink, and the path of what predicts.
STOCK = {
    'PIDNet': (
        'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
        pidnet(),
        'decode_head',
    ),
    'DDRNet': (
        'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
        pidnet(),
        'decode_head',
    ),
    'K-Net': (
        'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512',
        dict(backbone=RESNET, auxiliary_head=FCN),
        'decode_head',
    ),
    'EMANet': (
        'emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024',
        dict(
            backbone=RESNET,
            decode_head=dict(LAST, ema_channels=16, num_bases=4),
            auxiliary_head=FCN,
        ),
        'decode_head',
    ),
    'STDC': (
        'stdc/stdc1_4xb12-80k_cityscapes-512x1024',
        dict(decode_head=dict(channels=16, num_classes=4)),
        'decode_head',
    ),
    'BiSeNetV2': (
        'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
        dict(
            backbone=dict(
                detail_channels=(8, 8, 16),
                semantic_channels=(4, 8, 8, 16),
                bga_channels=16,
            ),
            decode_head=dict(in_channels=16, channels=16, num_classes=4),
        ),
        'decode_head',
    ),
    'OCRNet': (
        'ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024',
        dict(backbone=RESNET),
        'decode_head',
    ),
    'PointRend': (
        'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024',
        dict(
            backbone=RESNET,
            neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
            train_cfg=dict(num_points=32),
        ),
        'decode_head.0',
    ),
}
HEADS = {
    'OCRNet': [FCN, dict(LAST, ocr_channels=8)],
    'PointRend': [
        dict(in_channels=[8] * 4, channels=8, num_classes=4),
        dict(in_channels=[8], channels=8, num_classes=4),
    ],
}
#: Their heads return more in training than the map that they predict with.
TRAPS = ('PIDNet', 'DDRNet', 'K-Net')


def small_config(name: str, **changes):
    """A stock config, narrow, on 64 x 64 pixels."""
    config, shrunk, _ = STOCK[name]
    cfg = copy.deepcopy(zoo(f'mmseg::{config}.py'))
    model = dict(shrunk, data_preprocessor=dict(size=(64, 64)), **changes)
    cfg.merge_from_dict(dict(model=model))
    cfg.model.pretrained = None
    heads = cfg.model.decode_head
    for head, small in zip(heads, HEADS.get(name, ())):
        head.update(small)
    if name == 'BiSeNetV2':
        for head, width in zip(auxiliary(cfg), cfg.model.backbone.semantic_channels):
            head.update(in_channels=width, channels=width)
    if name == 'K-Net':
        heads.kernel_generate_head.update(LAST)
        for update in heads.kernel_update_head:
            update.update(KERNELS)
            update.kernel_updator_cfg.update(KERNELS['kernel_updator_cfg'])
    for head in [*(heads if isinstance(heads, list) else [heads]), *auxiliary(cfg)]:
        head.pop('sampler', None)  # hard pixels: of the loss alone
        if 'num_classes' in head:
            head.num_classes = 4
        losses = head.get('loss_decode', [])
        for loss in losses if isinstance(losses, list) else [losses]:
            loss.pop('class_weight', None)
    return cfg


def auxiliary(cfg) -> list:
    heads = cfg.model.get('auxiliary_head') or []
    return heads if isinstance(heads, list) else [heads]


def batch_with_edges() -> dict:
    """PIDNet learns edges, too."""
    raw = segmentation_batch()
    for sample in raw['data_samples']:
        edges = (sample.gt_sem_seg.data == 1).long()
        sample.gt_edge_map = PixelData(data=edges)
    return raw


def both_modes(name: str, path: str):
    """What a path yields in training, and in a teacher of the same weights."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(small_config(name).model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
    teacher = Teacher(copy.deepcopy(model))
    deterministic_training(model)
    data = model.data_preprocessor(batch_with_edges(), True)
    kind = tap_of(resolve(model, path))
    with record(model, {path: kind}, {path: 1}) as taps:
        model.loss(data['inputs'], data['data_samples'])
    batch = Batch(data['inputs'], data['data_samples'])
    return taps[path], teacher, batch, kind


@pytest.mark.parametrize('name', STOCK)
def test_a_teachers_head_yields_the_scores_of_training(name):
    path = STOCK[name][2]
    ours, teacher, batch, kind = both_modes(name, path)
    assert kind is DecodeHeadView
    theirs = teacher.run(batch, {path: kind}, {path: 1})[path]
    (expected,), (found,) = ours.logits, theirs.logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not teacher.model.training
    first, last = (v.calls['forward'][0].output for v in (ours, theirs))
    assert isinstance(first, (list, tuple)) == (name in TRAPS)
    assert isinstance(last, torch.Tensor)


@pytest.mark.parametrize('name', ['PIDNet', 'DDRNet'])
def test_a_teachers_branches_are_those_of_training(name):
    ours, teacher, batch, kind = both_modes(name, 'backbone')
    assert kind is BranchesTap
    expected = tensors(ours.value)
    assert len(expected) == {'PIDNet': 3, 'DDRNet': 2}[name]
    # The head beside it still gets the one map that it predicts from.
    taps = teacher.run(batch, dict(backbone=kind, decode_head=DecodeHeadView))
    found = tensors(taps['backbone'].value)
    assert [x.shape for x in found] == [x.shape for x in expected]
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
    assert taps['decode_head'].logits[0].shape == (2, 4, 8, 8)
    plain = teacher.run(batch, dict(backbone=Tap), dict(backbone=1))['backbone']
    assert isinstance(plain.value, torch.Tensor)


def test_the_bases_of_emanet_stay_as_they_were_trained():
    """In training mode it would move them with every batch."""
    _, teacher, batch, kind = both_modes('EMANet', 'decode_head')
    before = teacher.model.decode_head.ema_module.bases.clone()
    teacher.run(batch, dict(decode_head=kind), dict(decode_head=1))
    assert torch.equal(teacher.model.decode_head.ema_module.bases, before)


def test_branches_and_scores_are_distilled_at_once():
    wide = small_config('PIDNet', **pidnet(12))
    cfg = distill_config(
        small_config('PIDNet'),
        build(wide.model, 'mmseg', seed=7),
        dict(
            loss_hint=dict(type='mmkd.FeatureImitationLoss', at='backbone'),
            loss_pixel=dict(type='mmkd.PixelWiseLoss'),
        ),
    )
    model = build(cfg.model, 'mmseg')
    model.train()
    data = model.data_preprocessor(batch_with_edges(), True)
    losses = model(**data, mode='loss')
    convs = model.distiller.losses.loss_hint.adapter.convs
    assert len(convs) == 3
    assert losses['loss_hint'] > 0
    assert losses['loss_pixel'] > 0
    total(losses).backward()
    for conv in convs:
        assert conv.weight.grad.abs().sum() > 0
