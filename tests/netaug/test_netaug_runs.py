"""Whole runs: stock with weight 0, resumed exactly, averaged, in two processes."""

from pathlib import Path

import pytest
import torch
from blocks_net import augmented, blocks_net
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from toy import (
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
from two_ranks import run_two_ranks

from mmkd.export import export_student

HERE = Path(__file__).parent


def of_stock(runner):
    """The weights of the stock model, and its optimizer's moments of them."""
    state = training_state(runner)
    count = sum('netaug' not in name for name in state['model'])
    moments = state['optimizer']['state']
    return dict(
        model=dict(list(state['model'].items())[:count]),
        buffers={k: v for k, v in state['buffers'].items() if 'netaug' not in k},
        moments={i: moments[i] for i in range(count)},
    )


@pytest.mark.parametrize(
    'changes', [{}, {'optim_wrapper.clip_grad': dict(max_norm=0.1)}]
)
def test_with_weight_0_training_is_the_stock_one(changes, tmp_path):
    stock = train(blocks_net(), tmp_path / 'stock', **changes)
    ours = train(augmented(aug_weight=0.0), tmp_path / 'ours', **changes)
    assert recorded(ours) == recorded(stock)
    assert differences(of_stock(stock), of_stock(ours)) == []
    state = load(tmp_path / 'ours' / 'epoch_2.pth')['state_dict']
    assert (
        differences(state, load(tmp_path / 'stock' / 'epoch_2.pth')['state_dict']) == []
    )


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'optim_wrapper.accumulative_counts': 2},
        {'optim_wrapper.type': 'CpuAmpOptimWrapper'},
        by_iteration(),
    ],
)
def test_a_run_is_resumed_exactly(changes, tmp_path):
    straight = train(augmented(), tmp_path / 'straight', **changes)
    last = 'iter_3.pth' if 'train_cfg' in changes else 'epoch_1.pth'
    checkpoint = tmp_path / 'straight' / last
    again = train(
        augmented(),
        tmp_path / 'again',
        resume=True,
        load_from=str(checkpoint),
        **changes,
    )
    assert recorded(again) == recorded(straight)[-len(recorded(again)) :]
    assert differences(training_state(straight), training_state(again)) == []
    # The checkpoint's weights are a stock model's.
    stock = MODELS.build(blocks_net())
    stock.load_state_dict(load(checkpoint)['state_dict'])
    assert any('netaug' in key for key in training_state(straight)['model'])


def taught(model):
    """The model with a teacher around it."""
    return dict(distilled(), student=model)


@pytest.mark.parametrize(
    'model',
    [augmented(), taught(blocks_net()), taught(augmented())],
    ids=['netaug', 'teacher', 'both'],
)
def test_a_compiled_step_is_the_step(model, tmp_path):
    plain = train(model, tmp_path / 'plain')
    # The graphs without machine code: what compiling changes in the steps.
    compiled = train(model, tmp_path / 'compiled', compile=dict(backend='eager'))
    for told, expected in zip(recorded(compiled), recorded(plain), strict=True):
        # The optimizer is in the graph, too, and rounds otherwise.
        assert told == pytest.approx(expected, rel=1e-4)


def test_a_sub_network_is_drawn_in_every_step(tmp_path):
    runner = train(augmented(), tmp_path)
    assert runner.model.netaug.steps == 8
    assert {'loss', 'loss_cls', 'aug_loss_cls'} <= recorded(runner)[0].keys()


def test_resuming_without_the_weights_is_an_error(tmp_path):
    train(blocks_net(), tmp_path / 'stock')
    file = str(tmp_path / 'stock' / 'epoch_1.pth')
    with pytest.raises(RuntimeError, match='written without NetAug or with other'):
        train(augmented(), tmp_path / 'a', resume=True, load_from=file)
    no_hook = {'default_hooks.distiller_state': None}
    train(augmented(), tmp_path / 'b', **no_hook)
    file = str(tmp_path / 'b' / 'epoch_1.pth')
    with pytest.raises(RuntimeError, match='holds no state of NetAug'):
        train(augmented(), tmp_path / 'c', resume=True, load_from=file)
    with pytest.raises(RuntimeError, match='without the weights that NetAug adds'):
        train(augmented(), tmp_path / 'd', resume=True, load_from=file, **no_hook)


def test_it_starts_from_a_stock_file(tmp_path):
    train(blocks_net(), tmp_path / 'stock')
    file = tmp_path / 'stock' / 'epoch_2.pth'
    still = {'optim_wrapper.optimizer.lr': 0.0, 'load_from': str(file)}
    runner = train(augmented(), tmp_path / 'ours', **still)
    weights = load(file)['state_dict']
    for name, p in runner.model.named_parameters():
        assert 'netaug' in name or torch.equal(p, weights[name])


def test_averaged_weights_are_a_stock_models(tmp_path):
    ema = {'custom_hooks': [dict(type='EMAHook', momentum=0.5, update_buffers=True)]}
    train(augmented(), tmp_path, **ema)
    found = load(tmp_path / 'epoch_2.pth')
    MODELS.build(blocks_net()).load_state_dict(found['state_dict'])
    assert not any('netaug' in key for key in found['ema_state_dict'])


@pytest.mark.parametrize(
    'rules',
    [
        dict(custom_keys=dict(backbone=dict(lr_mult=0.5))),
        dict(custom_keys=dict(expand_conv=dict(lr_mult=0.1, decay_mult=0.0))),
        dict(norm_decay_mult=0.0, dwconv_decay_mult=0.5),
    ],
)
def test_rules_for_weights_mean_what_is_added_to_them(rules, tmp_path):
    changes = {
        'optim_wrapper.paramwise_cfg': rules,
        'optim_wrapper.optimizer.weight_decay': 0.1,
    }
    runner = train(augmented(), tmp_path, **changes)
    groups = {id(p): g for g in runner.optim_wrapper.param_groups for p in g['params']}
    found = {
        name: tuple(groups[id(p)][key] for key in ('lr', 'weight_decay'))
        for name, p in runner.model.named_parameters()
    }
    added = [name for name in found if name.startswith('netaug.')]
    assert len(added) == 7  # three convolutions, two norms of a weight and a bias
    for name in added:
        own = name.removeprefix('netaug.extensions.')
        for part in ('.rows', '.columns', '.more'):
            own = own.replace(part, '')
        assert found[name] == found[own]
    assert len(set(found.values())) > 1


@pytest.mark.slow
@pytest.mark.parametrize('name', ['expand', 'wide', 'sharded'])
def test_two_processes_are_one(name, tmp_path):
    """Same sub-networks, and the gradients of all pictures."""
    tmp_path = tmp_path / name
    tmp_path.mkdir()
    run_two_ranks(HERE / 'netaug_ranks.py', tmp_path)
    one, other = (load(tmp_path / f'rank{rank}.pth') for rank in range(2))
    assert differences(one['weights'], other['weights']) == []
    assert one['drawn'] == other['drawn']
    assert len(set(map(str, one['drawn']))) > 1
    alone = load(tmp_path / 'alone.pth')
    assert alone['drawn'] == one['drawn']
    for name, weight in alone['weights'].items():
        torch.testing.assert_close(one['weights'][name], weight, rtol=1e-3, atol=1e-5)


def test_the_export_is_the_stock_model(tmp_path):
    runner = train(augmented(), tmp_path)
    weights, config = export_student(tmp_path / 'epoch_2.pth', tmp_path / 'alone.pth')
    cfg = Config.fromfile(config)
    assert cfg.model.type == 'BlocksNet'
    stock = MODELS.build(cfg.model).eval()
    stock.load_state_dict(torch.load(weights, weights_only=True)['state_dict'])
    pictures = torch.randn(2, 3, 32, 32)
    model = runner.model.eval()
    assert torch.equal(stock.logits(pictures), model.logits(pictures))


class Sorted:
    """Counts how often channels are sorted."""

    def __init__(self, model):
        self.steps = []
        stock = model.sort_channels

        def sort_channels(optimizers):
            self.steps.append(MessageHub.get_current_instance().get_info('iter') or 0)
            assert len(optimizers) == 1
            stock(optimizers)

        model.sort_channels = sort_channels


def wide_run(tmp_path, **changes):
    """A run of two epochs of four iterations of a model with width."""
    hook = dict(type='mmkd.SortChannelsHook')
    changes = {'custom_hooks': [hook], **changes}
    return make_runner(augmented(width=(1, 2), kind='mobile'), tmp_path, **changes)


@pytest.mark.parametrize(
    ('interval', 'steps'),
    [(None, 1), (2, 2)],
)
def test_channels_are_sorted_in_the_first_half(interval, steps, tmp_path):
    hook = dict(type='mmkd.SortChannelsHook', interval=interval)
    runner = wide_run(tmp_path, custom_hooks=[hook])
    counted = Sorted(runner.model)
    runner.train()
    assert len(counted.steps) == steps
    stock = MODELS.build(blocks_net(kind='mobile'))
    stock.load_state_dict(load(tmp_path / 'epoch_2.pth')['state_dict'])


def test_sorting_needs_what_is_sorted(tmp_path):
    hook = dict(type='mmkd.SortChannelsHook')
    for number, model in enumerate((blocks_net(), augmented())):
        runner = make_runner(model, tmp_path / str(number), custom_hooks=[hook])
        with pytest.raises(
            ValueError, match='must go with a model of type mmkd.NetAug'
        ):
            runner.train()
    averaged = [hook, dict(type='EMAHook')]
    with pytest.raises(ValueError, match='must not go with EMAHook'):
        wide_run(tmp_path / 'ema', custom_hooks=averaged).train()
    with pytest.raises(ValueError, match='interval must be at least 1'):
        wide_run(tmp_path / 'i', custom_hooks=[dict(hook, interval=0)])
