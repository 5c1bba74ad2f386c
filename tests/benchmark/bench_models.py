"""Tiny settings that the tests of the benchmark measure."""

from __future__ import annotations

import dataclasses

import torch
from mmengine.config import Config
from tiny_models import tiny_gfl, tiny_pspnet, tiny_two_stage

from mmkd.benchmark.setting import Setting
from mmkd.config import distill_config, method_losses

LD = dict(
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
)


def setting(tiny=tiny_gfl, losses=None, **changes) -> Setting:
    """A narrow student with a less narrow teacher of random weights."""
    cfg: Config = distill_config(tiny(16), dict(config=tiny(24)), losses or LD)
    options = dict(
        size=(64, 96),
        batch=2,
        objects=3,
        device=torch.device('cpu'),
        steps=2,
        random_teacher=True,
    )
    options.update(changes)
    return Setting(cfg, 'tiny', **options)


def two_stages(**changes) -> Setting:
    return setting(tiny_two_stage, method_losses('chen2017', 'mmdet'), **changes)


def segmentor(**changes) -> Setting:
    return setting(tiny_pspnet, method_losses('cwd', 'mmseg'), **changes)


def netaug(one: Setting) -> Setting:
    """A setting with its student inside of wider ones."""
    cfg = one.cfg.copy()
    cfg.model = cfg.model.copy()
    student = cfg.model.pop('student')
    cfg.model.student = dict(type='mmkd.NetAug', model=student)
    return dataclasses.replace(one, cfg=cfg)
