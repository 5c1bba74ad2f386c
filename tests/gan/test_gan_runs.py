"""GANs in a Runner: resumed, averaged, accumulated, on two processes."""

import copy
from pathlib import Path

import pytest
import torch
from gan_ranks import CONFIGS
from gan_toy import (
    MOBILE,
    SMALL,
    SUPER,
    compression,
    cyclegan,
    pix2pix,
    run_config,
    saved,
)
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from run_ranks import found, models
from run_ranks import train as train_both
from two_ranks import run_two_ranks

from mmkd.gan.sub_networks import Validation
from mmkd.gan.translation import build

KINDS = ['pix2pix', 'cyclegan', 'student', 'supernet']


def model_of(kind, folder):
    if kind == 'pix2pix':
        return pix2pix()
    if kind == 'cyclegan':
        return cyclegan()
    students = dict(student=MOBILE, supernet=SUPER)
    return compression(saved(pix2pix(), folder), student=students[kind])


def train(cfg, name) -> Runner:
    cfg = Config(copy.deepcopy(cfg))
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def weights(runner):
    return {k: v.clone() for k, v in runner.model.state_dict().items()}


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_is_resumed_exactly(kind, tmp_path):
    model = model_of(kind, tmp_path)
    straight = train(run_config(model, tmp_path / 'a'), f'{kind}_a_{tmp_path.name}')
    again = train(
        run_config(
            model,
            tmp_path / 'b',
            resume=True,
            load_from=str(tmp_path / 'a' / 'epoch_1.pth'),
        ),
        f'{kind}_b_{tmp_path.name}',
    )
    assert again.iter == straight.iter == 8
    for name, value in weights(straight).items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.parametrize('kind', ['pix2pix', 'supernet'])
def test_an_average_of_weights_is_kept(kind, tmp_path):
    model = model_of(kind, tmp_path)
    ema = [dict(type='EMAHook', momentum=0.5)]
    told = run_config(model, tmp_path / 'a', custom_hooks=ema)
    runner = train(told, f'{kind}_{tmp_path.name}')
    checkpoint = torch.load(tmp_path / 'a' / 'epoch_2.pth', weights_only=False)
    averaged, raw = checkpoint['state_dict'], runner.model.state_dict()
    name = 'generator.model.1.weight'
    assert not torch.equal(averaged[name], raw[name])
    torch.testing.assert_close(averaged[name], raw[name], rtol=0, atol=1e-2)
    assert set(averaged) == set(raw)


def test_what_is_validated_is_the_average(tmp_path):
    told = train_both(pix2pix(), tmp_path / 'run', 2)
    expected = found(told)['metrics']
    values = []
    for kind in ('saved', 'weights'):
        model = MODELS.build(pix2pix())
        model.load_state_dict(found(told)[kind])
        values.append(Validation(told.cfg).metrics(model))
    for name, value in expected.items():
        assert values[0][f'pictures/{name}'] == pytest.approx(value, rel=1e-6)
        assert values[1][f'pictures/{name}'] != pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize('learns', ['generator', 'discriminator'])
def test_gradients_are_accumulated(learns, tmp_path):
    """Two steps of two pictures move as one of four, where the other one stays."""
    states, begun = [], None
    for name, size, count in (('one', 4, 1), ('two', 2, 2)):
        cfg = run_config(pix2pix(), tmp_path / name)
        cfg['train_dataloader'].update(batch_size=size)
        cfg['train_dataloader']['dataset']['length'] = 4
        cfg['train_cfg'] = dict(by_epoch=True, max_epochs=1)
        told = {
            network: dict(
                optimizer=dict(type='SGD', lr=0.1 if network == learns else 0.0),
                accumulative_counts=count,
            )
            for network in ('generator', 'discriminator')
        }
        cfg['optim_wrapper'] = dict(cfg['optim_wrapper'], **told)
        cfg['experiment_name'] = f'{name}_{tmp_path.name}'
        runner = Runner.from_cfg(Config(cfg))
        begun = weights(runner)
        runner.train()
        states.append(weights(runner))
    moved = [k for k, v in begun.items() if not torch.equal(v, states[0][k])]
    assert moved
    assert all(name.startswith(learns) for name in moved)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)


def test_two_processes_equal_one(tmp_path):
    run_two_ranks(Path(__file__).parent / 'gan_ranks.py', tmp_path)
    alone, *ranks = (
        torch.load(tmp_path / f'{name}.pth') for name in ('alone', 'rank0', 'rank1')
    )
    for kind, expected in alone.items():
        for name, value in expected.items():
            assert torch.equal(ranks[0][kind][name], ranks[1][kind][name]), name
            # Differences of rounding grow in networks of small weights.
            torch.testing.assert_close(
                ranks[0][kind][name], value, rtol=1e-4, atol=3e-5, msg=f'{kind} {name}'
            )
        torch.manual_seed(0)
        begun = dict(MODELS.build(copy.deepcopy(CONFIGS[kind])).named_parameters())
        for name in ('generator.model.1.weight', 'discriminator.model.0.weight'):
            assert (begun[name] - expected[name]).abs().max() > 3e-4, (kind, name)


@pytest.mark.parametrize('kind', ['student', 'supernet', 'network'])
def test_a_run_begins_with_what_was_inherited(kind, tmp_path):
    """A Runner draws weights anew, of all that lets it."""
    wide = dict(SUPER if kind == 'supernet' else MOBILE, ngf=4)
    teacher = saved(pix2pix(generator=dict(MOBILE, ngf=4)), tmp_path)
    inherit = ['generator', 'discriminator']
    model = compression(teacher, student=wide, inherit=inherit)
    cfg = Config(run_config(model, tmp_path / 'run'))
    for name in ('generator', 'discriminator'):
        cfg.optim_wrapper[name] = dict(optimizer=dict(type='SGD', lr=0.0))
    cfg.experiment_name = f'{kind}_{tmp_path.name}'
    built = MODELS.build(copy.deepcopy(model))
    expected = {
        name: value.clone()
        for network in (built.generator, built.discriminator)
        for name, value in network.state_dict().items()
    }
    if kind == 'network':  # that was given, with weights of its own
        cfg.model = compression(teacher, student=SMALL)
    runner = Runner.from_cfg(cfg)
    if kind == 'network':
        runner.model.generator = build(built.generator, 'generator')
    runner.train()
    own = runner.model
    state = {**own.generator.state_dict(), **own.discriminator.state_dict()}
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_runs_on_two_processes(tmp_path):
    """They go on exactly, agree, and come to what one process comes to."""
    saved(pix2pix(), tmp_path)
    run_two_ranks(Path(__file__).parent / 'run_ranks.py', tmp_path)
    ranks = [torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1)]
    for kind, model in models(tmp_path).items():
        for what in ('weights', 'saved'):
            for name, value in ranks[0][kind][what].items():
                for other in (ranks[1][kind], ranks[0][f'{kind} resumed']):
                    assert torch.equal(other[what][name], value), (kind, what, name)
        assert ranks[0][kind]['metrics'] == ranks[1][kind]['metrics']
        assert ranks[0][kind]['metrics'] == ranks[0][f'{kind} resumed']['metrics']
        if kind == 'cyclegan':  # each process has made pictures of its own
            continue
        alone = found(train_both(model, tmp_path / 'alone' / kind, 2))
        begun = torch.load(
            tmp_path / 'alone' / kind / 'epoch_1.pth', weights_only=False
        )
        for what in ('weights', 'saved'):
            assert set(alone[what]) == set(ranks[0][kind][what])
            moved = max(
                (value - begun['state_dict'][name]).abs().max()
                for name, value in alone[what].items()
            )
            for name, value in alone[what].items():
                apart = (value - ranks[0][kind][what][name]).abs().max()
                assert apart < 1e-3 * moved, (kind, what, name)
        for name, value in alone['metrics'].items():
            assert ranks[0][kind]['metrics'][name] == pytest.approx(value, rel=1e-4)
