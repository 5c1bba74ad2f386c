"""A tiny detector and segmentor on digits, and the tools called on them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[2]

STUDENT = """
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
data_root = 'data/digits/'
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
model = dict(
    backbone=dict(
        depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(
        num_classes=10, in_channels=16, feat_channels=16, stacked_convs=1, reg_max=4,
        norm_cfg=dict(type='GN', num_groups=4),
        anchor_generator=dict(octave_base_scale=3)),
    test_cfg=dict(score_thr=0.0))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/train.json',
        data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, ann_file='annotations/val.json',
        data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/val.json', metric=['bbox', 'proposal'])
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
param_scheduler = None
default_hooks = dict(logger=dict(interval=1))
"""
TEACHER = """
_base_ = 'student.py'
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32))
"""
HINT = """
_base_ = 'student.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True,
    type='mmkd.DistillDetector',
    student={{{{_base_.model}}}},
    teacher=dict(config='{folder}/teacher.py', checkpoint='{folder}/teacher.pth'),
    losses=dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck')))
"""
# The preprocessor stands at the top level only: the Runner hands it to the model.
SEG_STUDENT = """
_base_ = 'mmseg::_base_/default_runtime.py'
data_root = 'data/digits/'
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
    size=(64, 64))
norm = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='ResNetV1c', depth=18, base_channels={width}, stem_channels=8,
        dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True,
        norm_cfg=norm),
    decode_head=dict(
        type='PSPHead', in_channels={width} * 8, in_index=3, channels=16,
        pool_scales=(1, 2), dropout_ratio=0.1, num_classes=11, norm_cfg=norm,
        align_corners=False, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(64, 64))],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]),
]
classes = ['ground', *'0123456789']
dataset = dict(
    type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=classes),
    img_suffix='.png', seg_map_suffix='.png', pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='train', seg_map_path='labels/train'), **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='val', seg_map_path='labels/val'), **dataset))
test_dataloader = val_dataloader
test_pipeline = pipeline
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4))
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))
"""


@dataclass
class Result:
    """What a tool left on the terminal."""

    code: int
    out: str
    err: str


def forget_runs() -> None:
    """Each call is a process of its own to the user, without earlier runs."""
    visualizers, managers = [Visualizer], [MessageHub, MMLogger, DefaultScope]
    while visualizers:
        managers.append(visualizers.pop())
        visualizers += managers[-1].__subclasses__()
    for manager in managers:
        manager._instance_dict.clear()


def call_tool(name: str, *arguments: object) -> Result:
    """Run a tool in this process, which spares importing everything."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f'tools/{name}.py', *map(str, arguments)]
    forget_runs()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            module.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = argv
        forget_runs()
    return Result(code, out.getvalue(), err.getvalue())


def run_tool(name: str, *arguments: object, cwd: Path) -> Result:
    """Run a tool as its user does."""
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / f'{name}.py', *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def with_preprocessor(cfg: Config) -> dict:
    """The model as the Runner builds it."""
    model = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def checkpoint(path: Path) -> dict:
    """A file that these tests wrote themselves."""
    return torch.load(path, map_location='cpu', weights_only=False)


def same(one: dict, other: dict) -> bool:
    """Whether two ``state_dict`` are equal bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) for key in one
    )


def distilled_model(config: Path, weights: Path, scope: str) -> torch.nn.Module:
    """The model that was trained, teacher and all, with its final weights."""
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(checkpoint(weights)['state_dict'], strict=True)
    return model.eval()
