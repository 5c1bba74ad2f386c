"""A teacher is in eval mode, yet its heads yield what they yield in training.

Many heads of MMDetection post-process in eval mode: boxes times stride, another number
of outputs, a sigmoid. Compared with a student in training such a teacher is wrong.
"""

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from tiny_models import (
    detection_batch,
    deterministic_training,
    tensors,
    zoo,
)
from torch import Tensor, nn

from mmkd.batch import Batch
from mmkd.det.tap_of import tap_of
from mmkd.taps import Tap, record, resolve
from mmkd.teacher import Teacher

WIDTH = 16
GN = dict(type='GN', num_groups=4, requires_grad=True)
RESNET = dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
FPN = dict(in_channels=[8, 16, 32, 64], out_channels=WIDTH)
HEAD = dict(num_classes=3, in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1)
CSP = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(widen_factor=0.125, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
)
CSP_HEAD = dict(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1)
GRIDS = dict(HEAD, num_grids=[8, 7, 5, 4, 3], norm_cfg=GN)


def fpn(**head) -> dict:
    return dict(backbone=RESNET, neck=FPN, bbox_head=dict(HEAD, **head))


def solo(**head) -> dict:
    return dict(backbone=RESNET, neck=FPN, mask_head=dict(GRIDS, **head))


def condinst() -> dict:
    mask = dict(in_channels=WIDTH, feat_channels=WIDTH, norm_cfg=GN)
    return dict(fpn(norm_cfg=GN), mask_head=dict(mask_feature_head=mask))


#: Heads that return something else in eval mode: config, tap and what to shrink.
TRAPS = {
    'FCOS': (
        'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN),
    ),
    'RepPoints': (
        'reppoints/reppoints-moment_r50_fpn_1x_coco',
        'bbox_head',
        fpn(point_feat_channels=WIDTH),
    ),
    'VFNet': ('vfnet/vfnet_r50_fpn_1x_coco', 'bbox_head', fpn(norm_cfg=GN)),
    'CenterNet update': (
        'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN),
    ),
    'CondInst': (
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        'bbox_head',
        condinst(),
    ),
    'BoxInst': ('boxinst/boxinst_r50_fpn_ms-90k_coco', 'bbox_head', condinst()),
    'SOLO': ('solo/solo_r50_fpn_1x_coco', 'mask_head', solo()),
    'Decoupled SOLO': ('solo/decoupled-solo_r50_fpn_1x_coco', 'mask_head', solo()),
    'Decoupled SOLO light': (
        'solo/decoupled-solo-light_r50_fpn_3x_coco',
        'mask_head',
        solo(),
    ),
    'GA-RetinaNet': (
        'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco',
        'bbox_head',
        fpn(),
    ),
}
#: Heads that return the same.
OTHERS = {
    'SOLOv2': (
        'solov2/solov2_r50_fpn_1x_coco',
        'mask_head',
        solo(
            mask_feature_head=dict(feat_channels=WIDTH, out_channels=WIDTH, norm_cfg=GN)
        ),
    ),
    'FCOS exp': (
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN),
    ),
    'YOLOX': (
        'yolox/yolox_tiny_8xb8-300e_coco',
        'bbox_head',
        dict(CSP, bbox_head=CSP_HEAD),
    ),
    'RTMDet': (
        'rtmdet/rtmdet_tiny_8xb32-300e_coco',
        'bbox_head',
        dict(CSP, bbox_head=CSP_HEAD),
    ),
    'RTMDet-Ins': (
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco',
        'bbox_head',
        dict(CSP, bbox_head=CSP_HEAD),
    ),
    'TOOD': (
        'tood/tood_r50_fpn_1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN, stacked_convs=2),
    ),
    'AutoAssign': (
        'autoassign/autoassign_r50-caffe_fpn_1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN),
    ),
    'NAS-FCOS': (
        'nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco',
        'bbox_head',
        fpn(norm_cfg=GN),
    ),
    'FoveaBox': ('foveabox/fovea_r50_fpn_4xb4-1x_coco', 'bbox_head', fpn()),
    'FSAF': ('fsaf/fsaf_r50_fpn_1x_coco', 'bbox_head', fpn()),
    'PAA': ('paa/paa_r50_fpn_1x_coco', 'bbox_head', fpn(norm_cfg=GN)),
    'DDOD': ('ddod/ddod_r50_fpn_1x_coco', 'bbox_head', fpn(norm_cfg=GN)),
    'CenterNet': (
        'centernet/centernet_r18_8xb16-crop512-140e_coco',
        'bbox_head',
        dict(
            backbone=dict(base_channels=8, init_cfg=None),
            neck=dict(in_channels=64, num_deconv_filters=(32, 16, WIDTH)),
            bbox_head=dict(num_classes=3, in_channels=WIDTH, feat_channels=WIDTH),
        ),
    ),
    'YOLACT': (
        'yolact/yolact_r50_1xb8-55e_coco',
        'bbox_head',
        dict(
            backbone=RESNET,
            neck=FPN,
            bbox_head=dict(num_classes=3, in_channels=WIDTH, feat_channels=WIDTH),
            mask_head=dict(num_classes=3, in_channels=WIDTH),
        ),
    ),
    'Mask2Former': (
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
        'panoptic_head',
        dict(
            data_preprocessor=dict(batch_augments=None),
            backbone=RESNET,
            panoptic_head=dict(
                in_channels=[8, 16, 32, 64],
                num_things_classes=3,
                num_queries=5,
                loss_cls=dict(class_weight=[1.0] * 3 + [0.1]),
                transformer_decoder=dict(num_layers=1),
                pixel_decoder=dict(encoder=dict(num_layers=1)),
            ),
            panoptic_fusion_head=dict(num_things_classes=3),
            train_cfg=dict(num_points=100),
        ),
    ),
    'DETR': (
        'detr/detr_r18_8xb2-500e_coco',
        'bbox_head',
        dict(
            backbone=dict(base_channels=8, frozen_stages=-1, init_cfg=None),
            neck=dict(in_channels=[64]),
            num_queries=5,
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2),
            bbox_head=dict(num_classes=3),
        ),
    ),
    'Deformable DETR': (
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
        'bbox_head',
        dict(
            backbone=RESNET,
            neck=dict(in_channels=[16, 32, 64]),
            num_queries=5,
            encoder=dict(num_layers=1),
            decoder=dict(num_layers=2),
            bbox_head=dict(num_classes=3),
        ),
    ),
}


QUERIES = ('Mask2Former', 'DETR', 'Deformable DETR')
#: Attention takes another path through torch in eval.
CLOSE = dict(rtol=1e-3, atol=1e-4)


def small_config(name: str):
    """A stock config, narrow, and the path of its head."""
    config, path, changes = {**TRAPS, **OTHERS}[name]
    cfg = copy.deepcopy(zoo(f'mmdet::{config}.py'))
    cfg.merge_from_dict(dict(model=changes))
    return cfg, path


def small(name: str) -> tuple[nn.Module, str]:
    """The model, and the path of its head."""
    cfg, path = small_config(name)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    if 'DETR' in name:
        model.init_weights()
        return model, path
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # stock heads start at almost 0
            nn.init.normal_(module.weight, std=0.1)
    return model, path


def kind_of(name: str, model: nn.Module, path: str) -> type[Tap]:
    """How the head is tapped; those of queries, which have no tap, as any module."""
    return Tap if name in QUERIES else tap_of(resolve(model, path))


def both_modes(name: str, raw: dict) -> tuple[nn.Module, Teacher, Batch, str, Tap]:
    """A model's teacher twin, the batch, and what the model yields in training."""
    model, path = small(name)
    teacher = Teacher(copy.deepcopy(model))
    deterministic_training(model)
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    batch = Batch(data['inputs'], data['data_samples'])
    samples = copy.deepcopy(data['data_samples'])
    with record(model, {path: kind_of(name, model, path)}, {path: 1}) as taps:
        model.loss(data['inputs'], samples)
    return model, teacher, batch, path, taps[path]


def outputs(tap: Tap) -> list[Tensor]:
    return tensors([call.output for call in tap.calls['forward']])


@pytest.mark.parametrize('name', [*TRAPS, *OTHERS])
def test_a_teachers_head_yields_what_it_does_in_training(name):
    raw = detection_batch(((64, 96), (96, 64)))
    model, teacher, batch, path, ours = both_modes(name, raw)
    kind = kind_of(name, model, path)
    theirs = teacher.run(batch, {path: kind}, {path: 1})[path]
    expected, found = outputs(ours), outputs(theirs)
    assert len(expected) > 0
    assert [x.shape for x in found] == [x.shape for x in expected]
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, **CLOSE)
    assert not any(module.training for module in teacher.model.modules())
    # Without the switch the trap snaps.
    kind = type('InEval', (kind,), dict(training_outputs=False))
    try:
        wrong = outputs(teacher.run(batch, {path: kind}, {path: 1})[path])
    except AssertionError:  # guided anchors take single images in eval
        wrong = []
    same = [x.shape for x in wrong] == [x.shape for x in expected] and all(
        torch.allclose(one, other, **CLOSE) for one, other in zip(wrong, expected)
    )
    assert same == (name in OTHERS)
