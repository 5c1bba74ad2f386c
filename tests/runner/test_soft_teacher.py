"""MMDetection's SoftTeacher around a distilled detector, on labelled and other digits.

The network that is averaged from the student, SoftTeacher's own teacher, and the
frozen one that distils have nothing to do with each other.
"""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from tiny_models import tiny_two_stage, zoo
from toy import (
    differences,
    load,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    training_state,
)

from mmkd.demo.digits import make_digits

STOCK = (
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
)
SOFT = 'mmkd.WeightedSoftCrossEntropyLoss'
LOSSES = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
    loss_soft=dict(type=SOFT, at='roi_head.bbox_head', mu=0.8),
)
SCHEDULE = dict(
    type='mmkd.DistillScheduleHook',
    losses=dict(loss_soft=dict(by_epoch=False, begin=1)),
)
MOMENTUM = 0.1


@HOOKS.register_module(force=True)
class NeckWeights(Hook):
    """Keeps a weight of the student after every iteration."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.seen = [self.weight(runner)]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(self.weight(runner))

    @staticmethod
    def weight(runner):
        return runner.model.student.neck.fpn_convs[0].conv.weight.detach().clone()


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('soft') / 'digits'
    return make_digits(root, num_train=12, num_val=2, size=64)


def detector(losses: dict | None) -> dict:
    student = tiny_two_stage(16, classes=10).model.to_dict()
    if losses is None:
        return student
    teacher = tiny_two_stage(24, classes=10).model.to_dict()
    return dict(
        type='mmkd.DistillDetector',
        student=student,
        teacher=dict(
            config=dict(model=teacher, default_scope='mmdet'),
            checkpoint=None,
            allow_random=True,
        ),
        losses=losses,
    )


def config(root, folder, losses: dict | None, **changes) -> Config:
    """Four iterations on one labelled and two other pictures each."""
    cfg = copy.deepcopy(zoo(STOCK))
    cfg.model.detector = ConfigDict(detector(losses))
    student = cfg.model.detector.get('student', cfg.model.detector)
    cfg.model.data_preprocessor.data_preprocessor = student.data_preprocessor
    # A network that knows nothing finds everything.
    thresholds = ('pseudo_label_initial', 'rpn_pseudo', 'cls_pseudo', 'reg_pseudo')
    for name, value in zip(thresholds, (0.0, 0.05, 0.05, 10.0)):
        key = 'score_thr' if name == 'pseudo_label_initial' else 'thr'
        cfg.model.semi_train_cfg[f'{name}_{key}'] = value
    loader = cfg.train_dataloader
    loader.update(batch_size=3, num_workers=0, persistent_workers=False)
    loader.sampler.update(batch_size=3, source_ratio=[1, 2])
    classes = tuple('0123456789')
    for dataset in loader.dataset.datasets:
        dataset.update(
            data_root=f'{root}/',
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=classes),
        )
        _shrink(dataset.pipeline)
    for mode in ('val', 'test'):
        cfg.update(
            {f'{mode}_{part}': None for part in ('cfg', 'dataloader', 'evaluator')}
        )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
    cfg.custom_hooks = [dict(type='MeanTeacherHook', momentum=MOMENTUM)]
    cfg.default_hooks.checkpoint = dict(
        type='mmkd.AtomicCheckpointHook', by_epoch=False, interval=2
    )
    cfg.default_hooks.update(
        distiller_state=dict(type='mmkd.DistillerStateHook'),
        recorder=dict(type='LossRecorder'),
        neck=dict(type='NeckWeights'),
    )
    cfg.update(work_dir=str(folder), randomness=dict(seed=5), log_level='ERROR')
    cfg.experiment_name = '_'.join(folder.parts[-2:])
    cfg.merge_from_dict(changes)
    return cfg


def _shrink(steps) -> None:
    for step in steps:
        if step['type'] == 'RandomResize':
            step['scale'] = [(64, 48), (64, 64)]
        for branch in ('unsup_teacher', 'unsup_student'):
            _shrink(step.get(branch, ()))


def train(*arguments, **changes) -> Runner:
    runner = Runner.from_cfg(config(*arguments, **changes))
    runner.train()
    return runner


@pytest.fixture(scope='module')
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'distilled'
    return train(digits, folder, LOSSES, **{'default_hooks.schedule': SCHEDULE})


@pytest.fixture(scope='module')
def stock(digits, tmp_path_factory):
    return train(digits, tmp_path_factory.mktemp('run') / 'stock', None)


def test_every_branch_and_every_term_takes_part(run):
    steps = recorded(run)
    assert len(steps) == 4
    for number, step in enumerate(steps):
        assert step['sup_loss_hint'] > 0
        assert (step['sup_loss_soft'] > 0) == (number >= 1)  # as scheduled
        assert step['sup_loss_cls'] > 0
        assert step['unsup_loss_cls'] > 0
    weights = training_state(run)['model']
    adapters = [n for n in weights if n.startswith('student.distiller.')]
    assert len(adapters) == 10  # weight and bias of five levels
    for name in adapters:  # the average lags behind what moves
        twin = name.replace('student.', 'teacher.', 1)
        assert not torch.equal(weights[name], weights[twin]), name


def test_the_average_is_soft_teachers_own(run):
    """Of the formula, from a start with equal weights."""
    seen = next(h for h in run.hooks if isinstance(h, NeckWeights)).seen
    average = seen[0]
    for weights in seen[1:]:
        average = average * (1 - MOMENTUM) + weights * MOMENTUM
    own = run.model.teacher.neck.fpn_convs[0].conv.weight
    assert (own - average).abs().max() < 1e-7
    assert (own - seen[-1]).abs().max() > 1e-6


def test_the_checkpoint_is_the_stock_one(run, stock, tmp_path):
    saved = load(f'{run.work_dir}/iter_4.pth')['state_dict']
    assert list(saved) == list(load(f'{stock.work_dir}/iter_4.pth')['state_dict'])
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(stock.cfg.model)
    model.load_state_dict(saved, strict=True)


def test_weight_0_is_stock_training(digits, stock, tmp_path):
    off = dict(loss_hint=dict(LOSSES['loss_hint'], loss_weight=0))
    ours = train(digits, tmp_path / 'off', off)
    for step, theirs in zip(recorded(ours), recorded(stock), strict=True):
        assert {name: step[name] for name in theirs} == theirs
        assert step['sup_loss_hint'] == 0


def test_resumes_exactly(digits, run, tmp_path):
    changes = {
        'default_hooks.schedule': SCHEDULE,
        'resume': True,
        'load_from': f'{run.work_dir}/iter_2.pth',
    }
    again = train(digits, tmp_path / 'again', LOSSES, **changes)
    assert recorded(again) == recorded(run)[2:]
    # But for the twin's adapters, which nobody uses.
    ours, theirs = (
        {k: v for k, v in training_state(r)['model'].items() if 'teacher.dist' not in k}
        for r in (again, run)
    )
    assert differences(ours, theirs) == []
