"""BatchNorm statistics taken anew: right ones, where they are read, and no more."""

import copy
from pathlib import Path

import pytest
import torch
from blocks_net import augmented, blocks_net
from mmengine.registry import MODELS
from torch import nn
from toy import (
    by_iteration,
    differences,
    load,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
    training_state,
)
from two_ranks import run_two_ranks

from mmkd.hooks.recalibrate_hook import recalibrate

HERE = Path(__file__).parent
HOOK = dict(type='mmkd.RecalibrateHook', samples=8)


def batches(count, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        dict(
            inputs=list(torch.rand(size, 3, 32, 32, generator=generator) * 255),
            data_samples=list(range(size)),
        )
        for _ in range(count)
    ]


def test_statistics_are_the_mean_of_those_of_the_batches():
    torch.manual_seed(0)
    model = MODELS.build(blocks_net()).train()
    conv, norm = model.backbone[0], model.backbone[1]
    seen = [conv(model.data_preprocessor(data)['inputs']) for data in batches(3)]
    before = copy.deepcopy(model)
    assert recalibrate(model, batches(3)) == 3
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    changed = differences(before.state_dict(), model.state_dict())
    assert changed
    assert all('running_' in name for name in changed)
    assert all(m.training for m in model.modules())
    assert norm.momentum == before.backbone[1].momentum


def test_what_does_not_take_part_keeps_its_statistics():
    """A frozen norm, one of a head that is not run, and all of them after a failure."""
    model = MODELS.build(blocks_net()).train()
    model.auxiliary = nn.BatchNorm2d(3)
    model.auxiliary.running_mean.fill_(2)
    model.backbone[1].eval()
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, batches(1))
    changed = differences(before, model.state_dict())
    assert changed
    assert not any('auxiliary' in name or '/backbone.1.' in name for name in changed)
    assert not model.backbone[1].training
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError):
        recalibrate(model, [*batches(1), {}])
    assert differences(before, model.state_dict()) == []


@pytest.mark.parametrize('changes', [{}, by_iteration()])
def test_a_run_is_the_same_but_for_the_statistics_that_are_read(changes, tmp_path):
    plain = train(augmented(shared=True), tmp_path / 'plain', **changes)
    ours = make_runner(
        augmented(shared=True), tmp_path / 'ours', custom_hooks=[HOOK], **changes
    )
    validated = []
    ours.val_loop.run_iter = watched(ours, validated)
    ours.train()
    assert recorded(ours) == recorded(plain)
    changed = differences(training_state(plain), training_state(ours))
    assert changed
    assert all('running_' in name for name in changed)
    for file in (tmp_path / 'ours').glob('*_[0-9].pth'):
        saved = load(file)['state_dict']
        model = MODELS.build(blocks_net()).train()
        model.load_state_dict(load(tmp_path / 'plain' / file.name)['state_dict'])
        hook = next(h for h in ours.hooks if type(h).__name__ == 'RecalibrateHook')
        hook._is_stale, stock = True, ours.model
        ours.model = model
        hook._recalibrate(ours)
        assert differences(saved, model.state_dict()) == []
        ours.model = stock
    # The last validation saw what the last checkpoint holds.
    assert differences(validated[-1], saved_last(tmp_path / 'ours')) == []


def watched(runner, found):
    """The validation's step, which keeps the weights that it sees."""
    stock = runner.val_loop.run_iter

    def run_iter(*args):
        state = runner.model.state_dict()
        kept = {k: v.clone() for k, v in state.items() if not k.startswith('netaug')}
        found.append(kept)
        return stock(*args)

    return run_iter


def saved_last(folder):
    last = (folder / 'last_checkpoint').read_text().strip()
    return load(Path(last))['state_dict']


def test_shared_statistics_need_it_and_separate_ones_do_not(tmp_path):
    """Against statistics of all pictures, with weights that stand still."""
    # Standing still, or running statistics lag behind whatever they see.
    # The pictures are the same in every batch, so that statistics of them are exact.
    lr = {
        'optim_wrapper.optimizer.lr': 0.0,
        'train_cfg.max_epochs': 80,
        'train_cfg.val_interval': 80,
        'default_hooks.checkpoint.interval': 80,
        'train_dataloader.batch_size': 16,
        'train_dataloader.dataset.augment': False,
    }
    hook = {'custom_hooks': [dict(HOOK, samples=16)]}
    runs = dict(
        separate=train(augmented(), tmp_path / '1', **lr),
        shared=train(augmented(shared=True), tmp_path / '2', **lr),
        recalibrated=train(augmented(shared=True), tmp_path / '3', **lr, **hook),
    )
    data = list(runs['shared'].train_dataloader)
    distance = {}
    weights = [training_state(run)['model'] for run in runs.values()]
    assert differences(weights[0], weights[1]) == []
    for name, runner in runs.items():
        model = copy.deepcopy(runner.model).eval()
        inputs = model.data_preprocessor(data[0])['inputs']
        found = model(inputs)
        recalibrate(model.train(), data)
        expected = model.eval()(inputs)
        distance[name] = ((found - expected).norm() / expected.norm()).item()
    assert distance['recalibrated'] < 0.5 * distance['shared']
    assert distance['separate'] < 0.5 * distance['shared']


def test_what_cannot_be_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='samples must be an integer >= 1 but is 0'):
        make_runner(blocks_net(), tmp_path, custom_hooks=[dict(HOOK, samples=0)])
    averaged = [HOOK, dict(type='EMAHook')]
    with pytest.raises(ValueError, match='must not go with EMAHook'):
        make_runner(blocks_net(), tmp_path / 'ema', custom_hooks=averaged).train()
    model = blocks_net(norm='GN', block_norm='GN')
    with pytest.raises(ValueError, match='needs a BatchNorm that follows its batches'):
        make_runner(model, tmp_path / 'gn', custom_hooks=[HOOK]).train()


@pytest.mark.slow
def test_two_processes_take_the_mean_of_theirs(tmp_path):
    run_two_ranks(HERE / 'recalibration_ranks.py', tmp_path)
    one, other, alone = (
        load(tmp_path / f'{name}.pth') for name in ('rank0', 'rank1', 'alone')
    )
    assert differences(one, other) == []
    for name, value in alone.items():
        torch.testing.assert_close(one[name], value)
