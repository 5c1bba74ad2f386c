"""Distillation with weight 0, or with no losses, is stock training bit for bit."""

import copy

import digits_detector
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from toy import (
    CWD,
    HINT,
    differences,
    distilled,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.demo.digits import make_digits

ADAPTER = dict(in_channels=8, out_channels=12)
OFF = {
    'no losses': {},
    'weight 0': dict(
        loss_hint=dict(HINT, loss_weight=0), loss_cwd=dict(CWD, loss_weight=0)
    ),
    'weight 0 with an adapter': dict(
        loss_hint=dict(HINT, loss_weight=0, adapter=ADAPTER)
    ),
}
RUNS = {
    'plain': {},
    'clipped': {'optim_wrapper.clip_grad': dict(max_norm=0.5)},
    'accumulated': {'optim_wrapper.accumulative_counts': 2},
    'sgd': {
        'optim_wrapper.optimizer': dict(
            _delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1
        )
    },
    'init_cfg of the whole model': {
        'init_cfg': dict(type='Kaiming', layer='Conv2d', distribution='uniform')
    },
}


@HOOKS.register_module(force=True)
class InitialWeights(Hook):
    """Keeps the weights that training starts from."""

    def before_train(self, runner):
        self.weights = copy.deepcopy(runner.model.state_dict())


STOCK_HOOKS = {
    'default_hooks.checkpoint.type': 'CheckpointHook',
    'default_hooks.distiller_state': None,
}


def six_steps(model, folder, **changes):
    """Two epochs of three iterations, validated at the end."""
    changes['train_cfg.val_interval'] = 9
    changes['train_dataloader.dataset.length'] = 12
    changes['default_hooks.initial'] = dict(type='InitialWeights', priority='LOWEST')
    return train(model, folder, **changes)


def initial_weights(runner):
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, InitialWeights))
    return hook.weights


def without_adapters(state):
    """The optimizer sees adapters behind the student; they must have no state."""
    state = copy.deepcopy(state)
    names = [n for n in state['model'] if not n.startswith('distiller.')]
    for group in state['optimizer']['param_groups']:
        assert set(group['params'][len(names) :]).isdisjoint(
            state['optimizer']['state']
        )
        group['params'] = group['params'][: len(names)]
    state['model'] = {name: state['model'][name] for name in names}
    return state


@pytest.fixture(scope='module')
def stock_runs(tmp_path_factory):
    """Stock runs by name, made once."""
    made = {}

    def get(name):
        if name not in made:
            changes = dict(RUNS[name])
            init = changes.pop('init_cfg', None)
            made[name] = six_steps(
                student(init_cfg=init),
                tmp_path_factory.mktemp('stock'),
                **STOCK_HOOKS,
                **changes,
            )
        return made[name]

    return get


@pytest.mark.parametrize('off', OFF)
@pytest.mark.parametrize('run', RUNS)
def test_equals_the_stock_run(run, off, stock_runs, tmp_path):
    changes = dict(RUNS[run])
    init = changes.pop('init_cfg', None)
    stock = stock_runs(run)
    ours = six_steps(distilled(OFF[off], init_cfg=init), tmp_path, **changes)

    assert len(recorded(stock)) == 6
    assert len({step['loss'] for step in recorded(stock)}) == 6
    assert differences(initial_weights(stock), initial_weights(ours)) == []
    for theirs, step in zip(recorded(stock), recorded(ours), strict=True):
        assert {name: step[name] for name in theirs} == theirs
        assert all(step[name] == 0 for name in OFF[off])
    assert (
        differences(training_state(stock), without_adapters(training_state(ours))) == []
    )
    moved = differences(initial_weights(ours), ours.model.state_dict())
    assert len(moved) == len(ours.model.state_dict())  # it did train


def test_a_loss_of_some_weight_changes_the_run(stock_runs, tmp_path):
    """The comparison above is able to fail."""
    ours = six_steps(distilled(dict(loss_hint=HINT)), tmp_path)
    stock = stock_runs('plain')
    assert recorded(ours)[0]['loss_cls'] == recorded(stock)[0]['loss_cls']
    assert recorded(ours)[0]['loss'] != recorded(stock)[0]['loss']
    assert recorded(ours)[5]['loss_cls'] != recorded(stock)[5]['loss_cls']


def test_building_the_model_leaves_the_random_state(tmp_path):
    make_runner(student(), tmp_path)
    expected = torch.rand(4)
    make_runner(distilled(), tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_a_real_detector_equals_its_stock_run(tmp_path):
    root = make_digits(tmp_path / 'digits', num_train=6, num_val=2)
    losses = dict(
        loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0)
    )
    stock = Runner.from_cfg(
        digits_detector.stock(root, tmp_path / 'stock', **STOCK_HOOKS)
    )
    stock.train()
    ours = Runner.from_cfg(digits_detector.distilled(root, tmp_path / 'ours', losses))
    ours.train()
    assert len(recorded(stock)) == 6
    for theirs, step in zip(recorded(stock), recorded(ours), strict=True):
        assert {name: step[name] for name in theirs} == theirs
    assert differences(training_state(stock), training_state(ours)) == []
