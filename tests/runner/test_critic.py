"""A critic in real training runs: resume, EMA, accumulation, the runner's optimizer."""

import copy

import pytest
from toy import (
    HINT,
    by_iteration,
    differences,
    distilled,
    load,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
    training_state,
)

HOLISTIC = dict(
    type='mmkd.HolisticLoss',
    at='head',
    critic=dict(type='mmkd.SelfAttentionCritic', channels=2),
)
TERMS = dict(loss_hint=HINT, loss_holistic=HOLISTIC)


def critic_state(runner) -> dict:
    model = getattr(runner.model, 'module', runner.model)
    return copy.deepcopy(model.distiller.losses['loss_holistic'].get_extra_state())


@pytest.mark.parametrize(
    ('changes', 'checkpoint', 'steps'),
    [
        ({'train_cfg.max_epochs': 3}, 'epoch_1.pth', 8),
        (by_iteration(), 'iter_3.pth', 5),
        (by_iteration(**{'randomness.seed': None}), 'iter_6.pth', 2),
    ],
    ids=['epochs', 'iterations', 'no seed'],
)
def test_stop_and_resume_is_no_stop(changes, checkpoint, steps, tmp_path):
    """The same next losses; the same critic, optimizer and weights at the end."""
    straight = train(distilled(TERMS), tmp_path / 'a', **changes)
    first = str(tmp_path / 'a' / checkpoint)
    resumed = dict(changes, resume=True, load_from=first)
    again = train(distilled(TERMS), tmp_path / 'b', **resumed)
    assert recorded(again) == recorded(straight)[-steps:]
    assert len({step['loss_holistic'] for step in recorded(again)}) == steps
    assert differences(training_state(straight), training_state(again)) == []
    assert differences(critic_state(straight), critic_state(again)) == []
    total = len(recorded(straight))
    assert critic_state(again)['steps'] == total
    # Adam's moments of every weight of the critic that gets a gradient.
    assert critic_state(again)['optimizer']['state'][0]['step'] == total


def test_the_rate_of_the_critic_falls_over_the_run(tmp_path):
    runner = train(distilled(TERMS), tmp_path, **by_iteration())
    (group,) = critic_state(runner)['optimizer']['param_groups']
    assert group['lr'] == pytest.approx(4e-4 * (1 - 7 / 8) ** 0.9)


def test_checkpoints_hold_the_critic_beside_a_stock_student(tmp_path):
    runner = train(distilled(TERMS), tmp_path)
    checkpoint = load(tmp_path / 'epoch_2.pth')
    assert not any('distiller' in key for key in checkpoint['state_dict'])
    entry = checkpoint['distiller']['state_dict']['losses.loss_holistic._extra_state']
    assert differences(entry, critic_state(runner)) == []
    # Plain data: what reads checkpoints safely reads this one.
    from mmkd.compat.checkpoint import load_file

    assert (
        differences(
            load_file(tmp_path / 'epoch_2.pth')['distiller'], checkpoint['distiller']
        )
        == []
    )


def test_the_runners_optimizer_does_not_know_it(tmp_path):
    runner = train(distilled(TERMS), tmp_path)
    groups = runner.optim_wrapper.optimizer.param_groups
    known = {id(p) for group in groups for p in group['params']}
    critic = runner.model.distiller.losses['loss_holistic'].critic
    assert known
    assert not known & {id(p) for p in critic.parameters()}


@pytest.mark.parametrize(
    'changes',
    [
        {'custom_hooks': [dict(type='EMAHook')]},
        {'optim_wrapper.accumulative_counts': 2},
        {'optim_wrapper.type': 'CpuAmpOptimWrapper'},
        {'optim_wrapper.clip_grad': dict(max_norm=1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_beside_whatever_the_run_uses(changes, tmp_path):
    """One step of the critic an iteration, and a run that resumes exactly."""
    changes = {'train_cfg.max_epochs': 3, **changes}
    straight = train(distilled(TERMS), tmp_path / 'a', **changes)
    assert critic_state(straight)['steps'] == len(recorded(straight)) == 12
    assert critic_state(straight)['skipped'] == 0
    resumed = dict(changes, resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    again = train(distilled(TERMS), tmp_path / 'b', **resumed)
    assert recorded(again) == recorded(straight)[-8:]
    assert differences(critic_state(straight), critic_state(again)) == []


def test_off_is_off(tmp_path):
    """With a schedule that ends it the critic stands still, and so does the value."""
    schedule = dict(
        type='mmkd.DistillScheduleHook', losses=dict(loss_holistic=dict(end=1))
    )
    changes = {'default_hooks.schedule': schedule}
    runner = train(distilled(TERMS), tmp_path, **changes)
    assert critic_state(runner)['steps'] == 4
    values = [step['loss_holistic'] for step in recorded(runner)]
    assert values[4:] == [0.0] * 4
    assert all(value != 0 for value in values[:4])


def test_another_critic_is_refused(tmp_path):
    train(distilled(TERMS), tmp_path / 'a')
    wider = dict(HOLISTIC, critic=dict(HOLISTIC['critic'], channels=4))
    changes = dict(resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    with pytest.raises(RuntimeError, match='written with other adapters or critics'):
        train(distilled(dict(TERMS, loss_holistic=wider)), tmp_path / 'b', **changes)


def test_the_student_starts_as_without_a_critic(tmp_path):
    """Building and training a critic draws no random number of the run."""
    without = train(distilled(dict(loss_hint=HINT)), tmp_path / 'a')
    quiet = dict(HOLISTIC, loss_weight=1e-30)  # on, and of no consequence
    beside = train(distilled(dict(TERMS, loss_holistic=quiet)), tmp_path / 'b')
    ours, theirs = training_state(beside), training_state(without)
    assert differences(ours['model'], theirs['model']) == []
    assert critic_state(beside)['steps'] == 8
