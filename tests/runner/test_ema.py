"""Averaging by the stock EMAHook, with a teacher beside the student."""

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS
from toy import (
    HINT,
    differences,
    distilled,
    load,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)


@HOOKS.register_module(force=True)
class Weights(Hook):
    """Keeps the student's weights after every iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(runner.model.neck.weight.detach().clone())


def ema(kind, **options):
    hook = dict(type='EMAHook', ema_type=kind, **options)
    return {'default_hooks.ema': hook, 'train_cfg.max_epochs': 3}


AVERAGES = {
    'plain': ema('ExponentialMovingAverage', momentum=0.1),
    'plain with buffers': ema(
        'ExponentialMovingAverage', momentum=0.1, update_buffers=True
    ),
    'stochastic': ema('StochasticWeightAverage'),
    'late': ema('ExponentialMovingAverage', momentum=0.1, begin_epoch=2),
    "mmdet's": ema('mmdet.ExpMomentumEMA', momentum=0.01, update_buffers=True),
}


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook))


@pytest.mark.parametrize('name', AVERAGES)
def test_trains_saves_and_resumes(name, tmp_path):
    if name.startswith('mmdet'):
        import mmdet.models.layers.ema  # noqa: F401
    changes = AVERAGES[name]
    run = train(distilled(), tmp_path / 'a', **changes)
    stock = list(MODELS.build(student()).state_dict())

    saved = load(tmp_path / 'a' / 'epoch_3.pth')
    averaged = hook_of(run).ema_model
    raw = run.model.state_dict()
    assert list(saved['state_dict']) == stock
    assert list(saved['ema_state_dict']) == ['steps', *(f'module.{k}' for k in stock)]
    assert differences(saved['state_dict'], averaged.module.state_dict()) == []
    assert {k: saved['ema_state_dict'][f'module.{k}'].tolist() for k in stock} == {
        k: raw[k].tolist() for k in stock
    }
    assert differences(saved['state_dict'], raw) != []
    assert averaged.module.distiller.teacher is run.model.distiller.teacher

    first = str(tmp_path / 'a' / 'epoch_1.pth')
    again = train(distilled(), tmp_path / 'b', resume=True, load_from=first, **changes)
    assert recorded(again) == recorded(run)[4:]
    assert differences(training_state(run), training_state(again)) == []
    other = load(tmp_path / 'b' / 'epoch_3.pth')
    for key in ('state_dict', 'ema_state_dict'):
        assert differences(saved[key], other[key]) == []


def test_the_average_is_that_of_the_formula(tmp_path):
    changes = ema('ExponentialMovingAverage', momentum=0.1)
    run = train(
        distilled(), tmp_path, **changes, **{'default_hooks.w': dict(type='Weights')}
    )
    seen = next(hook for hook in run.hooks if isinstance(hook, Weights)).seen
    average = seen[0]
    for weights in seen[1:]:
        average = 0.9 * average + 0.1 * weights
    saved = load(tmp_path / 'epoch_3.pth')['state_dict']['neck.weight']
    torch.testing.assert_close(saved, average)
    assert len(seen) == 12


def test_weight_zero_is_stock_averaging(tmp_path):
    changes = ema('ExponentialMovingAverage', momentum=0.1, update_buffers=True)
    ours = train(
        distilled(dict(loss_hint=dict(HINT, loss_weight=0))), tmp_path / 'a', **changes
    )
    stock = train(student(), tmp_path / 'b', **changes)
    pair = [hook_of(run).ema_model.state_dict() for run in (ours, stock)]
    assert differences(*pair) == []
    assert torch.isfinite(pair[0]['module.neck.weight']).all()
