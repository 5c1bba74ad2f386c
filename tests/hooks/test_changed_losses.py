"""A run goes on with other losses as if it had had them, and tells so."""

import logging

import pytest
import torch
from toy import (
    CWD,
    HINT,
    by_iteration,
    differences,
    distilled,
    load,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
    training_state,
)

#: Terms before and after the first epoch. `loss_a` and `loss_b` train adapters.
CHANGES = {
    'one more': (dict(loss_a=HINT), dict(loss_a=HINT, loss_b=HINT)),
    'one less': (dict(loss_a=HINT, loss_cwd=CWD), dict(loss_cwd=CWD)),
    'another': (dict(loss_a=HINT), dict(loss_cwd=CWD)),
    'the first with weights': (dict(loss_cwd=CWD), dict(loss_a=HINT)),
}
SCHEDULER = [dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5, by_epoch=True)]
OPTIMIZERS = {
    'adam': {},
    'sgd': {
        'optim_wrapper.optimizer': dict(
            _delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=0.1
        )
    },
    'groups and a schedule': {
        'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0),
        'param_scheduler': SCHEDULER,
    },
    'accumulated': {'optim_wrapper.accumulative_counts': 2},
}


def scheduled(before, after) -> dict:
    """One run that does the same: all terms, of which some come late or go early."""
    plan = {name: dict(end=1) for name in before.keys() - after.keys()}
    plan.update({name: dict(begin=1) for name in after.keys() - before.keys()})
    return {
        'default_hooks.schedule': dict(type='mmkd.DistillScheduleHook', losses=plan)
    }


def by_name(runner) -> dict:
    """Weights, moments and rates of every parameter."""
    state = training_state(runner)
    optimizer = runner.optim_wrapper.optimizer
    index = {id(p): name for name, p in runner.model.named_parameters()}
    return dict(
        weights=state['model'],
        moments={index[id(p)]: dict(v) for p, v in optimizer.state.items()},
        rates={
            index[id(p)]: group['lr']
            for group in optimizer.param_groups
            for p in group['params']
        },
    )


CASES = [
    *((change, 'groups and a schedule') for change in CHANGES),
    *(('another', optimizer) for optimizer in list(OPTIMIZERS)[:2]),
    ('one more', 'accumulated'),
]


@pytest.mark.parametrize(('change', 'optimizer'), CASES)
def test_goes_on_as_a_run_that_had_them_all(change, optimizer, tmp_path):
    before, after = CHANGES[change]
    every = {**after, **before}
    changes = {'train_cfg.max_epochs': 3, **OPTIMIZERS[optimizer]}
    # In the order of the first run, so that equal adapters start with equal weights.
    one = train(
        distilled(every), tmp_path / 'one', **changes, **scheduled(before, after)
    )
    train(distilled(before), tmp_path / 'a', **dict(changes))
    again = dict(changes, resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    two = train(distilled(after), tmp_path / 'b', **again)
    for ours, theirs in zip(recorded(two), recorded(one)[4:], strict=True):
        assert ours == {name: theirs[name] for name in ours}
        assert all(ours[name] > 0 for name in after)
    ours, theirs = by_name(two), by_name(one)
    for kind, values in ours.items():
        assert differences(values, {k: theirs[kind][k] for k in values}) == [], kind
    assert len(ours['moments']) == len(ours['weights'])


def warnings_of(caplog, model, folder, **changes) -> tuple[str, object]:
    """What a run warns of, and the run."""
    runner = make_runner(model, folder, **changes)
    runner.logger.addHandler(caplog.handler)
    runner.logger.setLevel(logging.WARNING)
    runner.train()
    return ' '.join(caplog.messages), runner


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    """Checkpoints of every iteration of a run with a hint."""
    folder = tmp_path_factory.mktemp('first')
    every = dict(by_epoch=False, interval=1)
    changes = {f'default_hooks.checkpoint.{k}': v for k, v in every.items()}
    run = train(distilled(dict(loss_a=HINT)), folder, **changes)
    return folder, recorded(run)


def test_says_what_is_new_and_what_is_gone(first, tmp_path, caplog):
    checkpoint = first[0] / 'iter_8.pth'
    changes = dict(resume=True, load_from=str(checkpoint))
    text, runner = warnings_of(
        caplog,
        distilled(dict(loss_b=HINT, loss_cwd=CWD)),
        tmp_path,
        **{'train_cfg.max_epochs': 3, **changes},
    )
    assert 'loss_b, loss_cwd start untrained; loss_a and what they had learnt' in text
    # Nothing goes on showing the last value of what is gone.
    logged = runner.message_hub.log_scalars
    assert 'train/loss_a' in load(checkpoint)['message_hub']['log_scalars']
    assert 'train/loss_a' not in logged
    assert 'train/loss_b' in logged


def test_says_nothing_where_nothing_changed(tmp_path, caplog):
    train(distilled(), tmp_path / 'a')
    changes = dict(resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    text, _ = warnings_of(caplog, distilled(), tmp_path / 'b', **changes)
    assert 'other losses' not in text
    assert 'repeats' not in text


@pytest.mark.parametrize('iteration', [2, 4, 6])
def test_says_that_an_epoch_is_repeated(iteration, first, tmp_path, caplog):
    """An epoch has four iterations; the last one has ended, but not its epoch."""
    folder, straight = first
    changes = dict(resume=True, load_from=str(folder / f'iter_{iteration}.pth'))
    text, again = warnings_of(caplog, distilled(dict(loss_a=HINT)), tmp_path, **changes)
    epoch, done = divmod(iteration - 1, 4)
    assert f'after {done + 1} iterations of epoch {epoch + 1}, which MMEngine' in text
    assert len(recorded(again)) == 8 - 4 * epoch
    assert len(straight) == 8


def test_iterations_are_not_repeated(tmp_path, caplog):
    changes = by_iteration()
    train(distilled(), tmp_path / 'a', **changes)
    changes.update(resume=True, load_from=str(tmp_path / 'a' / 'iter_3.pth'))
    text, again = warnings_of(caplog, distilled(), tmp_path / 'b', **changes)
    assert 'repeats' not in text
    assert len(recorded(again)) == 5


def test_moments_that_nobody_named_are_not_guessed(first, tmp_path):
    """A checkpoint of an earlier version, and other losses."""
    checkpoint = load(first[0] / 'iter_8.pth')
    for key in ('losses', 'parameters', 'done_in_epoch'):
        del checkpoint['distiller'][key]
    torch.save(checkpoint, tmp_path / 'old.pth')
    changes = {
        'resume': True,
        'load_from': str(tmp_path / 'old.pth'),
        'train_cfg.max_epochs': 3,
    }
    with pytest.raises(RuntimeError, match='only be resumed with the losses'):
        train(distilled(dict(loss_b=HINT)), tmp_path / 'b', **changes)
    again = train(distilled(dict(loss_a=HINT)), tmp_path / 'c', **changes)
    assert len(recorded(again)) == 8
