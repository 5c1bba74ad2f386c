"""The balance of the terms is measured, and the run is that without measuring."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy import (
    CWD,
    HINT,
    by_iteration,
    differences,
    distilled,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.hooks import LossBalanceHook

MGD = dict(type='mmkd.MGDLoss', at='neck')
TERMS = dict(loss_hint=HINT, loss_cwd=CWD, loss_mgd=MGD)
BALANCE = {'default_hooks.balance': dict(type='mmkd.LossBalanceHook', interval=3)}


def shares(model, batch) -> dict[str, float]:
    """Norm of every term's gradient over the task's, where the term reaches."""
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    weights = [p for n, p in model.named_parameters() if 'distiller' not in n]
    gradients = {
        name: torch.autograd.grad(
            losses[name], weights, retain_graph=True, allow_unused=True
        )
        for name in ('loss_cls', 'loss_hint', 'loss_cwd')
    }
    task = gradients.pop('loss_cls')
    found = {}
    for name, pull in gradients.items():
        reached = [i for i, g in enumerate(pull) if g is not None]
        ours, theirs = (
            sum(side[i].square().sum() for i in reached).sqrt().item()
            for side in (pull, task)
        )
        found[name.removeprefix('loss_')] = ours / theirs
    return found


@HOOKS.register_module(force=True)
class Shares(Hook):
    """The same by other means, before the measurement."""

    priority = 'HIGH'

    def before_train(self, runner):
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        twin = copy.deepcopy(runner.model).train()
        self.found.append(shares(twin, copy.deepcopy(data_batch)))


def logged(runner, name: str) -> list[float]:
    return list(runner.message_hub.get_scalar(f'train/{name}_share')._log_history)


@pytest.mark.parametrize('changes', [{}, by_iteration()], ids=['epochs', 'iterations'])
def test_a_run_is_the_one_without_it(tmp_path, changes):
    """Dropout, BatchNorm, masks and data included."""
    plain = train(distilled(TERMS), tmp_path / 'plain', **changes)
    measured = train(distilled(TERMS), tmp_path / 'measured', **changes, **BALANCE)
    assert recorded(plain) == recorded(measured)
    assert not differences(training_state(plain), training_state(measured))
    extra = [runner.model.distiller.losses.state_dict() for runner in (plain, measured)]
    assert not differences(*extra)
    assert len(logged(measured, 'hint')) == 3  # iterations 0, 3, 6


def test_shares_are_those_of_gradients_by_autograd(tmp_path):
    changes = {'model.student.dropout': 0.0, 'default_hooks.shares.type': 'Shares'}
    terms = dict(loss_hint=HINT, loss_cwd=CWD)
    runner = train(distilled(terms), tmp_path, **changes, **BALANCE)
    hook = next(h for h in runner.hooks if isinstance(h, Shares))
    for name in ('hint', 'cwd'):
        expected = [hook.found[iteration][name] for iteration in (0, 3, 6)]
        assert logged(runner, name) == pytest.approx(expected, rel=1e-4)


def test_a_term_that_drowns_the_task_is_said_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmkd.hooks.loss_balance_hook.print_log',
        lambda text, **options: said.append(text),
    )
    terms = dict(loss_hint=dict(HINT, loss_weight=1e4), loss_cwd=CWD)
    changes = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.0)}
    train(distilled(terms), tmp_path, **changes, **BALANCE)
    (text,) = said
    assert text.startswith('mmkd: iteration 0: loss_hint: its gradient is ')
    assert "times the task's and will drown it; loss_weight" in text


def test_a_stock_model_has_nothing_to_measure(tmp_path):
    runner = make_runner(student(), tmp_path, **BALANCE)
    with pytest.raises(ValueError, match='terms of a distilled model but .* is ToyNet'):
        runner.train()


@pytest.mark.parametrize('interval', [0, 2.5])
def test_an_interval_out_of_range_is_an_error(interval):
    with pytest.raises(ValueError, match=f'interval must be .* but is {interval}'):
        LossBalanceHook(interval=interval)
