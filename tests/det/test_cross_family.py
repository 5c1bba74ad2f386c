"""Student and teacher of different families: their necks are compared.

Everything is built as from a config; the networks are stock ones made narrow.
"""

import copy

import pytest
import torch
from test_teacher_modes import small_config
from tiny_models import (
    build,
    detection_batch,
    tiny_two_stage,
    total,
    with_masks,
    zoo,
)

from mmkd.batch import Batch
from mmkd.config import distill_config
from mmkd.taps import Tap

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
SWIN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
HINT = dict(type='mmkd.FeatureImitationLoss', at='neck')
WIDTH = 24  # of the teachers' necks


def retinanet(width: int):
    cfg = copy.deepcopy(zoo('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'))
    cfg.model.backbone.update(
        depth=18, base_channels=8, frozen_stages=-1, init_cfg=None
    )
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    cfg.model.bbox_head.update(
        num_classes=3, in_channels=width, feat_channels=width, stacked_convs=1
    )
    return cfg


def rtmdet():
    cfg = small_config('RTMDet')[0]
    cfg.model.neck.out_channels = cfg.model.bbox_head.in_channels = WIDTH
    cfg.model.bbox_head.feat_channels = WIDTH
    return cfg


def swin_mask_rcnn():
    cfg = tiny_two_stage(WIDTH, MASK_RCNN)
    cfg.model.backbone = copy.deepcopy(zoo(SWIN).model.backbone)
    cfg.model.backbone.update(
        embed_dims=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], init_cfg=None
    )
    return cfg


#: Student, teacher, further settings of the loss, and how many levels are compared.
PAIRS = {
    'FCOS <- RetinaNet': (
        lambda: small_config('FCOS')[0],
        lambda: retinanet(WIDTH),
        {},
        5,
    ),
    'RetinaNet <- Faster R-CNN': (
        lambda: retinanet(16),
        lambda: tiny_two_stage(WIDTH),
        dict(levels='stride'),
        4,
    ),
    'YOLOX <- RTMDet': (lambda: small_config('YOLOX')[0], rtmdet, {}, 3),
    'Mask R-CNN <- Swin': (
        lambda: tiny_two_stage(16, MASK_RCNN),
        swin_mask_rcnn,
        {},
        5,
    ),
}


def distilled(name: str, **changes):
    student, teacher, settings, _ = PAIRS[name]
    entry = dict(config=teacher(), checkpoint=None, allow_random=True)
    loss = {**HINT, **settings, **changes}
    cfg = distill_config(student(), entry, dict(loss_hint=loss))
    return build(cfg.model, 'mmdet')


def raw_batch(name: str) -> dict:
    raw = detection_batch(((64, 96), (96, 64)))
    return with_masks(raw) if 'Mask' in name else raw


@pytest.mark.parametrize('name', PAIRS)
def test_two_steps_of_training(name):
    model = distilled(name).train()
    loss = model.distiller.losses.loss_hint
    assert len(loss.adapter.convs) == PAIRS[name][3]
    assert all(conv.out_channels == WIDTH for conv in loss.adapter.convs)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values = []
    for _ in range(2):
        data = model.data_preprocessor(raw_batch(name), True)
        losses = model(**data, mode='loss')
        values.append(losses['loss_hint'].item())
        optimizer.zero_grad()
        losses['loss_hint'].backward(retain_graph=True)
        parts = dict(backbone=model.backbone, neck=model.neck, adapter=loss.adapter)
        for part in parts.values():
            reached = [p.grad for p in part.parameters() if p.grad is not None]
            assert all(grad.isfinite().all() for grad in reached)
            assert any(grad.abs().sum() > 0 for grad in reached)
        assert all(conv.weight.grad.abs().sum() > 0 for conv in loss.adapter.convs)
        optimizer.zero_grad()
        everything = total(losses)
        assert everything.isfinite()
        everything.backward()
        optimizer.step()
    assert values[0] > 0
    assert values[1] != values[0]
    check_the_teachers_inputs(model, raw_batch(name), data)


class Given(Tap):
    keeps_arguments = ('forward',)


def check_the_teachers_inputs(model, raw: dict, data: dict) -> None:
    """They are what the teacher's own preprocessing makes of the same pictures."""
    teacher = model.distiller.teacher
    batch = Batch(data['inputs'], data['data_samples'])
    seen = teacher.run(batch, dict(backbone=Given), dict(backbone=1))['backbone']
    (call,) = seen.calls['forward']
    own = teacher.model.data_preprocessor(raw, True)['inputs']
    torch.testing.assert_close(call.args[0], own, rtol=0, atol=1e-3)


def test_the_pairs_have_different_preprocessing():
    """Or the comparison of inputs would show nothing."""
    fcos, yolox = (small_config(name)[0].model for name in ('FCOS', 'YOLOX'))
    assert not fcos.data_preprocessor.bgr_to_rgb
    assert retinanet(8).model.data_preprocessor.bgr_to_rgb
    assert 'mean' not in yolox.data_preprocessor
    assert rtmdet().model.data_preprocessor.std[0] > 50


def test_levels_of_other_strides_do_not_pass_by_index():
    """p3 to p7 of RetinaNet and p2 to p6 of Faster R-CNN are five levels each."""
    message = r'level 0: .* maps of one size .*\(2, 16, 16, 16\).*\(2, 24, 32, 32\)'
    with pytest.raises(ValueError, match=message + ".*levels='stride'"):
        distilled('RetinaNet <- Faster R-CNN', levels=None)


def test_levels_named_by_hand_are_those_of_one_stride():
    name = 'RetinaNet <- Faster R-CNN'
    named = distilled(name, levels=[[0, 1], [1, 2], [2, 3], [3, 4]])
    found = distilled(name)
    assert named.distiller.losses.loss_hint.levels == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert found.distiller.losses.loss_hint.levels == [(0, 1), (1, 2), (2, 3), (3, 4)]
