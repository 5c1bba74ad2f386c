"""A transfer in a Runner: rates, stages that keep what they reached, resuming, DDP."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_text import PHRASES, THIN, WORDS, make_bert, seeded
from two_ranks import run_two_ranks

import mmkd  # noqa: F401
from mmkd.training import train_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs' / 'mobilebert' / 'mobilebert_minilm_wikitext2.py')
COPIED = dict(
    THIN, embedding_size=32, trigram_input=False, normalization_type='layer_norm'
)


@pytest.fixture
def texts(tmp_path):
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / 'texts.txt'
    lines = [
        ' '.join(WORDS[i] for i in torch.randint(len(WORDS), (6,), generator=generator))
        for _ in range(60)
    ]
    path.write_text('\n'.join(lines))
    return str(path)


def config(bert, texts, work_dir, iterations=12, **model) -> Config:
    cfg = train_config(CONFIG, work_dir=str(work_dir))
    cfg.model = dict(
        type='mmkd.MobileBertTransfer',
        student=dict(
            type='mmkd.MobileBertModel', name=bert, structure=COPIED, **PHRASES
        ),
        teacher=bert,
        **model,
    )
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.batch_size = 4
        loader.dataset.update(
            name=bert, file=texts, cache_dir=str(Path(texts).parent / 'tokens')
        )
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.interval = iterations
    cfg.param_scheduler[0].end = 4
    # Without the probe, whose texts are not here.
    cfg.custom_hooks = [dict(type='mmkd.TransferHook')]
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'ERROR'
    return cfg


def run(cfg, spy=None) -> Runner:
    with seeded(1):
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        if spy is not None:
            runner.register_hook(spy, priority='LOWEST')
        runner.train()
    return runner


def weights(runner):
    return {k: v.clone() for k, v in runner.model.state_dict().items()}


class Spy(Hook):
    """Rates at every step, by part."""

    def __init__(self):
        self.during, self.after = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.during.append(rates_of(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append(rates_of(runner))


class Stop(Exception):
    """Of a run that ends before its time."""


class StopAfter(Hook):
    """Ends a run after its fifth step."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 4:
            raise Stop


class Judge(Hook):
    """The term of every layer at the start, in the middle and at the end."""

    def __init__(self, loader, middle):
        self.loader, self.middle = loader, middle
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in (0, self.middle):
            self.look(runner)

    def after_train(self, runner):
        self.look(runner)

    @torch.no_grad()
    def look(self, runner):
        losses = [
            result['layers']
            for data in runner.build_dataloader(self.loader)
            for result in runner.model.val_step(data)
        ]
        self.found.append(torch.tensor(losses).mean(0).tolist())


def rates_of(runner):
    names = {id(p): n for n, p in runner.model.named_parameters()}
    part_of = runner.model.transfer.part_of
    return {
        part_of(names[id(group['params'][0])]): group['lr']
        for group in runner.optim_wrapper.optimizer.param_groups
    }


def test_rates_follow_the_stages_and_schedulers_do_not_see_it(bert, texts, tmp_path):
    spy = Spy()
    run(config(bert, texts, tmp_path / 'work'), spy)
    factors = []
    for during, base in zip(spy.during[1:], spy.after):
        # What a scheduler left after the step before is what this one multiplies.
        assert len(set(base.values())) == 1
        (rate,) = set(base.values())
        factors.append({part: round(lr / rate, 6) for part, lr in during.items()})
    assert factors[0] == {'0': 1.0, '1': 0.0, '2': 0.0, 'rest': 0.0}
    assert factors[4] == {'0': 0.1, '1': 1.0, '2': 0.0, 'rest': 0.0}
    assert factors[10] == {'0': 0.1, '1': 0.1, '2': 1.0, 'rest': 0.0}
    assert list(spy.after[-1].values())[0] == pytest.approx(1e-3)


def test_what_waits_does_not_move(bert, texts, tmp_path):
    """Four steps of twelve are the first layer's."""
    cfg = config(bert, texts, tmp_path / 'work')
    cfg.train_cfg.max_iters = 12
    cfg.default_hooks.checkpoint.interval = 4
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    run(cfg)
    states = [
        torch.load(tmp_path / 'work' / f'iter_{i}.pth', weights_only=False)[
            'state_dict'
        ]
        for i in (4, 8, 12)
    ]
    moved = []
    for before, after in zip(states, states[1:]):
        parts = {k for k in before if not torch.equal(before[k], after[k])}
        moved.append({k.split('model.')[1].rsplit('.', 2)[0] for k in parts})
    assert not [name for name in moved[0] | moved[1] if 'embeddings' in name]
    assert {name.split('.')[2] for name in moved[0]} == {'0', '1'}
    assert {name.split('.')[2] for name in moved[1]} == {'0', '1', '2'}


def test_resuming_in_the_middle_of_a_stage_is_exact(bert, texts, tmp_path):
    cfg = config(bert, texts, tmp_path / 'whole', transfer_iters=9)
    cfg.model.update(soft_targets=0.0)
    whole = run(cfg)
    first = copy.deepcopy(cfg)
    first.work_dir = str(tmp_path / 'parts')
    first.default_hooks.checkpoint.interval = 5

    with pytest.raises(Stop):
        run(first, StopAfter())
    rest = copy.deepcopy(first)
    rest.load_from, rest.resume = str(tmp_path / 'parts' / 'iter_5.pth'), True
    rest.default_hooks.checkpoint.interval = 12
    resumed = run(rest)
    for key, value in weights(whole).items():
        assert torch.equal(weights(resumed)[key], value), key
    head = whole.model.transfer.state_dict()
    assert head
    for key, value in head.items():
        assert torch.equal(resumed.model.transfer.state_dict()[key], value), key


def test_every_layer_comes_down_in_its_stage_and_stays(bert, texts, tmp_path):
    """With two layers, each for a hundred steps."""
    cfg = config(bert, texts, tmp_path / 'work', iterations=200)
    cfg.model.student.structure = dict(COPIED, num_hidden_layers=2)
    small = str(tmp_path / 'two')
    make_bert(Path(small), num_hidden_layers=2)
    cfg.model.teacher = small
    cfg.optim_wrapper.optimizer.lr = 3e-3

    judge = Judge(cfg.val_dataloader, middle=100)
    run(cfg, judge)
    start, middle, end = judge.found
    assert middle[0] < 0.5 * start[0]
    assert end[1] < 0.5 * middle[1]
    assert end[0] < 1.5 * middle[0]


def test_two_processes_equal_one(bert, tmp_path):
    (tmp_path / 'bert').write_text(bert)
    run_two_ranks(Path(__file__).with_name('transfer_ranks.py'), tmp_path)
    alone, first, second = (
        torch.load(tmp_path / f'{name}.pth') for name in ('alone', 'rank0', 'rank1')
    )
    assert len(alone) > 50
    for key, value in alone.items():
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6, msg=key)
        assert torch.equal(first[key], second[key]), key


def test_losses_of_layers_are_over_with_them(bert, texts, tmp_path):
    cfg = config(
        bert,
        texts,
        tmp_path / 'work',
        schedule='joint',
        transfer_iters=6,
        soft_targets=0.0,
    )
    cfg.default_hooks.logger.interval = 1
    run(cfg)
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if 'loss' in line]
    layers = ['loss_feature_map' in line for line in lines]
    assert layers == [True] * 6 + [False] * 6
    assert ['loss_masked_lm' in line for line in lines] == [not x for x in layers]


def test_what_cannot_be_trained(bert, texts, tmp_path):
    cfg = config(bert, texts, tmp_path / 'work')
    mixed = copy.deepcopy(cfg)
    mixed.optim_wrapper.pop('paramwise_cfg')
    with pytest.raises(ValueError, match='must have parameters of one layer'):
        run(mixed)
    alone = copy.deepcopy(cfg)
    alone.model = alone.model.student
    with pytest.raises(ValueError, match='a model of type mmkd.MobileBertTransfer'):
        run(alone)
    without = copy.deepcopy(cfg)
    without.custom_hooks = []
    with pytest.raises(RuntimeError, match="type='mmkd.TransferHook'"):
        run(without)
