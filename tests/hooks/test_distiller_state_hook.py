"""A run that is broken off and resumed ends where it would have ended."""

import inspect

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop
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
    student,
    train,
    training_state,
)

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)
WITHOUT_STATE = {'default_hooks.distiller_state': None}
WORKERS = {'train_dataloader.num_workers': 2}
STAYING = {**WORKERS, 'train_dataloader.persistent_workers': True}
BEST = {
    'default_hooks.checkpoint.save_best': 'rounds',
    'default_hooks.checkpoint.rule': 'greater',
}


def resume(model, folder, checkpoint=None, **changes):
    changes.update(resume=True, load_from=checkpoint and str(checkpoint))
    return train(model, folder, **changes)


def assert_same_end(straight, again, steps):
    assert len(recorded(again)) == steps
    assert recorded(again) == recorded(straight)[-steps:]
    assert differences(training_state(straight), training_state(again)) == []
    # Adapters (one level, weight and bias) were trained, with Adam's moments.
    trained = [n for n in training_state(again)['model'] if n.startswith('distiller.')]
    assert len(trained) == 2
    moments = training_state(again)['optimizer']['state']
    assert len(moments) == len(training_state(again)['model'])


@pytest.mark.parametrize(
    'changes',
    [
        {},
        BEST,
        WORKERS,
        STAYING,
        {'randomness.seed': None},
        {'randomness.seed': None, **STAYING},
        {'optim_wrapper.clip_grad': dict(max_norm=1)},
        {'optim_wrapper.accumulative_counts': 2},
        {'default_hooks.checkpoint.type': 'CheckpointHook'},
    ],
    ids=lambda changes: ', '.join(changes) or 'plain',
)
def test_epochs_resume_exactly(changes, tmp_path):
    """Dropout, augmentation and validation draw random numbers all the while."""
    changes = {'train_cfg.max_epochs': 3, **changes}
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    first = tmp_path / 'a' / 'epoch_1.pth'
    again = resume(distilled(BOTH), tmp_path / 'b', first, **changes)
    assert_same_end(straight, again, steps=8)


@pytest.mark.parametrize(
    'changes',
    [{}, BEST, STAYING, {'randomness.seed': None, **WORKERS}],
    ids=lambda changes: ', '.join(changes) or 'plain',
)
@pytest.mark.parametrize('iteration', [3, 6])
def test_iterations_resume_exactly(changes, iteration, tmp_path):
    """From the middle of an epoch; four iterations are one."""
    changes = by_iteration(**changes)
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    middle = tmp_path / 'a' / f'iter_{iteration}.pth'
    again = resume(distilled(BOTH), tmp_path / 'b', middle, **changes)
    assert_same_end(straight, again, steps=8 - iteration)


def test_the_state_is_restored_at_once_where_no_data_are_skipped(tmp_path):
    arguments = inspect.signature(IterBasedTrainLoop).parameters
    if 'fast_forward_on_resume' not in arguments:
        pytest.skip('MMEngine always skips them; the OneDL fork has an option')
    changes = by_iteration(**{'train_cfg.fast_forward_on_resume': True})
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    middle = tmp_path / 'a' / 'iter_3.pth'
    again = resume(distilled(BOTH), tmp_path / 'b', middle, **changes)
    # The pictures are others. How many numbers a picture takes is the same.
    ends = [
        load(tmp_path / run / 'iter_8.pth')['distiller']['rng'][0]['python']
        for run in 'ab'
    ]
    assert ends[0] == ends[1]
    assert len(recorded(again)) == len(recorded(straight)) - 3


def test_resumes_from_the_best_checkpoint(tmp_path):
    """It is written after validation, which drew random numbers, and holds no
    optimizer."""
    sgd = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1)}
    changes = by_iteration(**BEST, **sgd)
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    (best,) = (tmp_path / 'a').glob('best_rounds_iter_8.pth')
    changes['train_cfg']['max_iters'] = 10
    longer = train(distilled(BOTH), tmp_path / 'c', **changes)
    again = resume(distilled(BOTH), tmp_path / 'b', best, **changes)
    assert recorded(straight) == recorded(longer)[:8]
    assert recorded(again) == recorded(longer)[8:]
    assert (
        differences(training_state(again)['model'], training_state(longer)['model'])
        == []
    )


def test_resuming_goes_on_otherwise_without_the_hook(tmp_path):
    """The comparisons above are able to fail."""
    straight = train(student(), tmp_path / 'a', **WITHOUT_STATE)
    first = tmp_path / 'a' / 'epoch_1.pth'
    again = resume(student(), tmp_path / 'b', first, **WITHOUT_STATE)
    assert recorded(again)[0] != recorded(straight)[4]


def test_the_checkpoint_holds_stock_keys_and_plain_data(tmp_path):
    run = train(distilled(BOTH), tmp_path)
    stock = make_runner(student(), tmp_path / 'stock').model.state_dict()
    saved = load(tmp_path / 'epoch_2.pth')
    assert list(saved['state_dict']) == list(stock)
    assert set(saved['distiller']) == {
        *('state_dict', 'teacher', 'rng', 'losses', 'parameters', 'done_in_epoch'),
        *('netaug', 'transfer'),
    }
    adapter = run.model.distiller.losses['loss_hint'].adapter.state_dict()
    assert {
        name.removeprefix('losses.loss_hint.adapter.'): value.tolist()
        for name, value in saved['distiller']['state_dict'].items()
    } == {name: value.tolist() for name, value in adapter.items()}
    assert len(saved['distiller']['rng']) == 1
    safely = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    torch.save(safely['distiller'], tmp_path / 'entry.pth')
    entry = torch.load(tmp_path / 'entry.pth', weights_only=True)
    assert differences(entry, saved['distiller']) == []


LINE = r"distiller_state=dict\(type='mmkd.DistillerStateHook'\)"


def test_a_checkpoint_without_the_state_is_refused(tmp_path):
    train(distilled(), tmp_path / 'a', **WITHOUT_STATE)
    first = tmp_path / 'a' / 'epoch_1.pth'
    with pytest.raises(RuntimeError, match='holds no state of the distiller.*' + LINE):
        resume(distilled(), tmp_path / 'b', first)


@pytest.mark.parametrize('written_with', [True, False])
@pytest.mark.parametrize('changes', [{}, by_iteration()], ids=['epochs', 'iterations'])
def test_a_run_without_the_hook_is_not_resumed(changes, written_with, tmp_path):
    """Nobody restores the adapters: the model itself notices."""
    written = {} if written_with else WITHOUT_STATE
    train(distilled(), tmp_path / 'a', **{**changes, **written})
    first = min((tmp_path / 'a').glob('*.pth'))
    with pytest.raises(RuntimeError, match='without the state of the dist.*' + LINE):
        resume(distilled(), tmp_path / 'b', first, **{**changes, **WITHOUT_STATE})


def test_a_run_without_adapters_is_resumed_without_the_hook(tmp_path):
    model = distilled(dict(loss_cwd=CWD))
    train(model, tmp_path / 'a', **WITHOUT_STATE)
    first = tmp_path / 'a' / 'epoch_1.pth'
    again = resume(model, tmp_path / 'b', first, **WITHOUT_STATE)
    assert len(recorded(again)) == 4


def test_a_model_stepped_by_hand_is_not_taken_for_resumed(tmp_path):
    run = train(distilled(), tmp_path)  # its message hub is at iteration 7 now
    for build in (
        lambda: make_runner(distilled(), tmp_path / 'b').model,
        lambda: type(run.model)(**_arguments(distilled())),
    ):
        model = build()
        batch = next(iter(run.train_dataloader))
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        assert losses['loss_hint'] > 0


def _arguments(cfg):
    return {key: value for key, value in cfg.items() if key != 'type'}


def test_another_adapter_is_refused(tmp_path):
    train(distilled(), tmp_path / 'a')
    first = tmp_path / 'a' / 'epoch_1.pth'
    other = dict(loss_hint=dict(HINT, at='head', teacher_at='head'))
    with pytest.raises(RuntimeError, match='or critics .*starts anew.*size mism'):
        resume(distilled(other), tmp_path / 'b', first)


def test_a_stock_run_resumes_from_a_stock_checkpoint(tmp_path):
    """The hook is harmless where nothing is distilled."""
    train(student(), tmp_path / 'a', **WITHOUT_STATE)
    again = resume(student(), tmp_path / 'b', tmp_path / 'a' / 'epoch_1.pth')
    assert len(recorded(again)) == 4


def test_load_from_a_stock_checkpoint_starts_a_new_run(tmp_path):
    trained = train(student(), tmp_path / 'a', **WITHOUT_STATE)
    runner = make_runner(
        distilled(), tmp_path / 'b', load_from=str(tmp_path / 'a' / 'epoch_2.pth')
    )
    runner.load_or_resume()
    assert differences(runner.model.state_dict(), trained.model.state_dict()) == []
    runner.train()
    assert len(recorded(runner)) == 8


def test_automatic_resume_finds_the_last_checkpoint(tmp_path):
    straight = train(distilled(BOTH), tmp_path / 'a', **{'train_cfg.max_epochs': 3})
    train(distilled(BOTH), tmp_path / 'b', **{'train_cfg.max_epochs': 2})
    again = resume(distilled(BOTH), tmp_path / 'b', **{'train_cfg.max_epochs': 3})
    assert_same_end(straight, again, steps=4)
