"""Settings that stock configs have, in distilled runs of real models."""

import copy

import digits_detector
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_models import build, tiny_pspnet
from torch.nn.modules.batchnorm import _BatchNorm
from toy import (
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
)

from mmkd.config import distill_config
from mmkd.demo.digits import make_digits

HINT = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))
SYNC = dict(type='SyncBN', requires_grad=True)


@HOOKS.register_module(force=True)
class Sizes(Hook):
    """Sizes of the batches that the teacher's backbone saw, and modes of modules."""

    def before_train(self, runner):
        self.student, self.teacher = [], []
        model = runner.model
        for seen, network in (
            (self.student, model),
            (self.teacher, model.distiller.teacher.model),
        ):
            network.backbone.register_forward_pre_hook(
                lambda module, inputs, seen=seen: seen.append(tuple(inputs[0].shape))
            )
        self.start = copy.deepcopy(model.state_dict())

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        norms = [m for m in _norms(runner.model.backbone) if m.training]
        self.norms_in_training = len(norms)


def _norms(model) -> list:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('settings') / 'digits'
    return make_digits(root, num_train=12, num_val=2, size=64)


def trained(root, folder, losses=HINT, **changes) -> tuple[Runner, Sizes]:
    changes['train_cfg.max_epochs'] = 1
    changes['default_hooks.sizes'] = dict(type='Sizes')
    cfg = digits_detector.distilled(root, folder, losses, **changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    steps = recorded(runner)
    assert len(steps) == 6
    assert all(step['loss_hint'] > 0 for step in steps)
    return runner, next(h for h in runner.hooks if isinstance(h, Sizes))


def moved(runner, hook) -> set[str]:
    state = runner.model.state_dict()
    return {k for k, v in hook.start.items() if not torch.equal(v, state[k])}


def test_frozen_stages_and_norm_eval(digits, tmp_path):
    changes = {'model.backbone': dict(frozen_stages=1, norm_eval=True)}
    runner, hook = trained(digits, tmp_path / 'run', **changes)
    names = moved(runner, hook)
    frozen = ('backbone.conv1', 'backbone.bn1', 'backbone.layer1')
    assert not [n for n in names if n.startswith(frozen)]
    assert 'backbone.layer2.0.conv1.weight' in names
    assert not [n for n in names if n.endswith(('running_mean', 'running_var'))]
    assert hook.norms_in_training == 0


def test_the_teacher_sees_what_a_batch_was_resized_to(digits, tmp_path):
    """Multi-scale training in the preprocessor: the student's has resized already."""
    resize = dict(
        type='BatchSyncRandomResize',
        random_size_range=(64, 192),
        interval=1,
        size_divisor=32,
    )
    changes = {'model.data_preprocessor.batch_augments': [resize]}
    _, hook = trained(digits, tmp_path / 'run', **changes)
    assert len(hook.teacher) == 6
    assert hook.teacher == hook.student[:6]  # validation follows
    assert len(set(hook.teacher)) > 1


def test_several_scales_in_the_pipeline(digits, tmp_path):
    """Pictures of one batch differ in size, and batches do."""
    cfg = digits_detector.stock(digits, tmp_path / 'stock')
    pipeline = copy.deepcopy(cfg.train_dataloader.dataset.pipeline)
    for step in pipeline:
        if step.type == 'Resize':
            step.update(type='RandomChoiceResize', keep_ratio=True)
            step.update(scales=[(64, 64), (96, 96), (128, 128)])
            del step['scale']
    changes = {'train_dataloader.dataset.pipeline': pipeline}
    _, hook = trained(digits, tmp_path / 'run', **changes)
    assert hook.teacher == hook.student[:6]
    assert len(set(hook.teacher)) > 1


def test_sync_batch_norm_of_a_config_is_reverted(digits, tmp_path):
    """One process: MMEngine reverts the student's, mmkd the teacher's."""
    changes = {'model.backbone.norm_cfg': SYNC}
    runner, hook = trained(digits, tmp_path / 'run', **changes)
    networks = (runner.model, runner.model.distiller.teacher.model)
    for network in networks:
        kinds = {type(m).__name__ for m in network.modules()}
        assert not [kind for kind in kinds if 'Sync' in kind]
    assert len(_norms(runner.model)) == 20
    assert not _norms(networks[1])  # reverted, so they could be folded
    assert 'backbone.bn1.running_mean' in moved(runner, hook)


def test_conversion_reaches_the_student_and_no_teacher(digits, tmp_path):
    """What MMEngine does for ``sync_bn='torch'`` in a distributed run; with GPUs."""
    losses = dict(HINT, loss_hint=dict(HINT['loss_hint'], at='backbone'))
    cfg = digits_detector.distilled(digits, tmp_path / 'run', losses)
    model = Runner.from_cfg(cfg).model
    converted = convert_sync_batchnorm(model, 'torch')
    assert converted is model
    kind = torch.nn.SyncBatchNorm
    assert sum(isinstance(m, kind) for m in model.modules()) == 20
    teacher = model.distiller.teacher.model
    assert not any(isinstance(m, kind) for m in teacher.modules())
    assert all(
        p is q for p, q in zip(model.parameters(), converted.parameters(), strict=True)
    )


WITH_CP = {'model.backbone.with_cp': True}


def test_a_checkpointed_backbone_has_the_same_losses(digits, tmp_path):
    plain, _ = trained(digits, tmp_path / 'plain')
    saving, _ = trained(digits, tmp_path / 'saving', **WITH_CP)
    for one, other in zip(recorded(plain), recorded(saving), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize('at', ['backbone.layer2.1.conv2', 'backbone.layer4.0.bn1'])
def test_a_tap_inside_of_a_checkpointed_block_is_named(at, digits, tmp_path):
    losses = dict(loss_hint=dict(HINT['loss_hint'], at=at))
    cfg = digits_detector.distilled(digits, tmp_path / 'run', losses, **WITH_CP)
    with pytest.raises(RuntimeError, match=f'{at!r} runs inside gradient checkpoint'):
        Runner.from_cfg(cfg)


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'bfloat16'])
def test_a_segmentor_at_random_scales(amp, tmp_path):
    """MMSegmentation's RandomResize and crops, of digits and their masks."""
    make_digits(tmp_path / 'digits', num_train=8, num_val=2, size=64)
    student, teacher = tiny_pspnet(16), tiny_pspnet(24)
    for cfg in (student, teacher):
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.num_classes = 11
    network = build(teacher.model, 'mmseg', seed=7)
    terms = dict(
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='backbone'),
        loss_pixel=dict(type='mmkd.PixelWiseLoss'),
        loss_pair=dict(type='mmkd.PairWiseLoss'),
    )
    cfg = distill_config(student, network, terms)
    model = build(cfg.model, 'mmseg')
    crop = (48, 80)
    model.data_preprocessor.size = crop
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='RandomResize', scale=(96, 64), ratio_range=(0.5, 2.0)),
        dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75),
        dict(type='PackSegInputs'),
    ]
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path / 'digits'),
        metainfo=dict(classes=['ground', *'0123456789']),
        data_prefix=dict(img_path='train', seg_map_path='labels/train'),
        img_suffix='.png',
        seg_map_suffix='.png',
        pipeline=pipeline,
    )
    wrapper = 'CpuAmpOptimWrapper' if amp else 'OptimWrapper'
    runner = Runner(
        model=model,
        work_dir=str(tmp_path / 'run'),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dataset,
        ),
        train_cfg=dict(by_epoch=False, max_iters=4),
        optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            checkpoint=None,
            recorder=dict(type='LossRecorder'),
            sizes=dict(type='Sizes'),
        ),
        default_scope='mmseg',
        randomness=dict(seed=3),
        experiment_name=f'scales_{amp}',
        log_level='ERROR',
        cfg=Config(),
    )
    runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, Sizes))
    assert hook.student == hook.teacher == [(2, 3, *crop)] * 4
    for step in recorded(runner):
        assert all(step[name] > 0 and step[name] < 100 for name in terms)
