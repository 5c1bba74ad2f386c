"""The search for sub-networks: budgets, resuming, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_toy import SUPER, compression, pix2pix, run_config, saved
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmkd.benchmark.setting import setting_of
from mmkd.cache.build import CacheBuilder
from mmkd.experiments.tuning import Search as TermSearch
from mmkd.export import export_student
from mmkd.gan.search import Evolution, Journal
from mmkd.gan.searching import search, settings_of
from mmkd.gan.settings import Settings
from mmkd.gan.slicing import export_sub_network, sliced
from mmkd.gan.sub_networks import SubNetworks, read_run
from mmkd.preflight import check
from mmkd.training import evaluation_config, train_config

CHOICES = [(2, 3, 4, 6)] * 8


def evolution(tmp_path, name='a', evaluate=None, choices=CHOICES, **told):
    settings = Settings(**{'metric': 'good', 'macs': 24.0, **told})
    journal = Journal(tmp_path / f'{name}.jsonl', dict(run=1))
    target = np.array([6, 2, 3, 4, 2, 3, 2, 2])
    return Evolution(
        choices,
        settings,
        cost=sum,
        evaluate=evaluate or (lambda c: dict(good=-float(np.abs(c - target).sum()))),
        journal=journal,
    )


def test_the_best_one_under_the_budget_is_found(tmp_path):
    found = evolution(tmp_path, population=40, generations=30).run()
    assert found == (6, 2, 3, 4, 2, 3, 2, 2)  # the sum is 24, the budget


def test_nothing_over_the_budget_is_ever_evaluated(tmp_path):
    search = evolution(tmp_path, macs=17.0, population=20, generations=5)
    search.run()
    assert search.journal.evaluated()
    assert max(map(sum, search.journal.evaluated())) <= 17


def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path):
    options = dict(population=10, generations=6, seed=3)
    whole = evolution(tmp_path, 'whole', **options)
    best = whole.run()

    calls = []

    def failing(channels):
        calls.append(channels)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return dict(good=float(np.prod(channels)))

    def counted(channels):
        calls.append(channels)
        return dict(good=float(np.prod(channels)))

    straight = evolution(tmp_path, 'straight', counted, **options)
    straight.run()
    total, calls = len(calls), []
    with pytest.raises(KeyboardInterrupt):
        evolution(tmp_path, 'cut', failing, **options).run()
    with (tmp_path / 'cut.jsonl').open('a') as file:
        file.write('{"kind": "metr')  # a line that was cut off
    calls = []
    again = evolution(tmp_path, 'cut', counted, **options)
    again.run()
    assert len(calls) == total - 24
    assert again.journal.known == straight.journal.known
    assert best == whole.run()  # from its journal alone


def test_smaller_is_better_for_distances():
    for name, sign in (('pictures/fid', -1), ('pictures/proxy_kid', -1), ('psnr', 1)):
        assert Settings(name, macs=1).sign == sign
    assert Settings('pictures/fid', macs=1, larger_is_better=True).sign == 1


def test_a_metric_that_is_no_number_loses(tmp_path):
    def evaluate(channels):
        return dict(good=float('nan') if channels[0] > 2 else float(sum(channels)))

    best = evolution(tmp_path, evaluate=evaluate, population=12, generations=4).run()
    assert best[0] == 2


def test_a_metric_that_is_never_a_number_is_told(tmp_path):
    with pytest.raises(ValueError, match='good must be a number for some sub-network'):
        evolution(tmp_path, evaluate=lambda channels: dict(good=float('nan'))).run()


def test_times_are_measured_once(tmp_path):
    options = dict(macs=None, milliseconds=24.0, population=8, generations=3)
    first = evolution(tmp_path, **options)
    best = first.run()
    again = evolution(tmp_path, **options)
    again._cost = lambda channels: pytest.fail('measured again')
    assert again.run() == best
    assert again.front() == first.front()


def test_few_are_measured_to_meet_a_small_budget(tmp_path):
    options = dict(macs=None, milliseconds=17.0, population=20, generations=3)
    search = evolution(tmp_path, **options)
    search.run()
    measured = [c for kind, c in search.journal.known if kind == 'time']
    assert max(map(sum, search.journal.evaluated())) <= 17
    assert len(measured) < 20 * search.total


def test_a_line_that_was_cut_inside_is_left_out(tmp_path):
    search = evolution(tmp_path, population=6, generations=1)
    best = search.run()
    path = tmp_path / 'a.jsonl'
    path.write_text(path.read_text().rstrip('\n')[:-1])  # '}' is left of '}}'
    assert evolution(tmp_path, population=6, generations=1).run() == best


def test_the_front_holds_what_nothing_beats(tmp_path):
    search = evolution(tmp_path, population=30, generations=3)
    search.run()
    front = search.front()
    for channels in search.journal.evaluated():
        beaten = [
            f
            for f in front
            if search.cost(f) <= search.cost(channels)
            and search.score(f) >= search.score(channels)
        ]
        assert beaten
    costs, scores = ([f(c) for c in front] for f in (search.cost, search.score))
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores))


@pytest.mark.parametrize(
    ('told', 'words'),
    [
        (dict(macs=None), 'one budget'),
        (dict(milliseconds=3.0), 'one budget'),
        (dict(macs=-1), 'above 0'),
        (dict(macs='2.7G'), "macs must be a number but is '2.7G'"),
        (dict(macs=float('nan')), 'macs must be a number but is nan'),
        (dict(population=10.5), 'population must be a whole number but is 10.5'),
        (dict(population=1), 'population must be at least 2'),
        (dict(mutate_prob=1.5), 'mutate_prob must be from 0 to 1 but is 1.5'),
        (dict(macs=15), r'at least 16, of the narrowest sub-network \[2, 2'),
    ],
)
def test_settings_that_cannot_be(told, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        evolution(tmp_path, **told)


def test_a_journal_of_another_search_is_refused(tmp_path):
    Journal(tmp_path / 'a.jsonl', dict(run=2))
    with pytest.raises(ValueError, match='of another search'):
        evolution(tmp_path)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A supernet's run of two steps: config, checkpoint."""
    folder = tmp_path_factory.mktemp('supernet')
    model = compression(saved(pix2pix(), folder), student=SUPER)
    cfg = Config(run_config(model, folder / 'run'))
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    cfg.train_dataloader.dataset.length = 4
    cfg.experiment_name = folder.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    validation = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='ToyPairs', length=3),
    )
    cfg.update(
        val_dataloader=validation,
        val_evaluator=dict(type='mmkd.PictureMetrics', metric=['psnr', 'ssim']),
        val_cfg=dict(),
        search=dict(
            metric='pictures/psnr', macs=2e5, population=4, generations=1, seed=1
        ),
        finetune={'train_cfg.max_epochs': 1, 'optim_wrapper.generator.clip_grad': None},
    )
    return cfg, folder / 'run' / 'epoch_1.pth', folder


def batch_of(cfg):
    return Runner.build_dataloader(cfg.val_dataloader, seed=0)


def test_a_search_writes_what_goes_on(run, tmp_path):
    cfg, checkpoint, _ = run
    told = []
    found = search(
        cfg, checkpoint, settings_of(cfg), tmp_path, lambda *x: told.append(x)
    )
    assert told[-1][:2] == (8, 8)
    assert found.picture.stat().st_size > 1000
    assert found.best in [channels for channels, *_ in found.front]

    nets = SubNetworks(cfg, read_run(cfg, checkpoint), 'run')
    journal = [json.loads(line) for line in (tmp_path / 'search.jsonl').open()][1:]
    for line in journal:
        assert nets.macs(line['channels']) <= 2e5
        assert nets.metrics(line['channels']) == line['values']
    best = max(journal, key=lambda line: line['values']['pictures/psnr'])
    assert tuple(best['channels']) == found.best

    # Loaded in another way the pictures are the same, and nothing is evaluated again.
    elsewhere = Config(cfg.to_dict())
    elsewhere.val_dataloader.update(batch_size=1, num_workers=1)
    before = (tmp_path / 'search.jsonl').read_bytes()
    again = search(elsewhere, checkpoint, settings_of(cfg), tmp_path)
    assert again.best == found.best
    assert (tmp_path / 'search.jsonl').read_bytes() == before
    elsewhere.val_dataloader.dataset.length = 2
    with pytest.raises(ValueError, match='of another search'):
        search(elsewhere, checkpoint, settings_of(cfg), tmp_path)

    # Two recipes, or two budgets, have a folder each.
    own = Path(train_config(str(found.config)).work_dir)
    assert own == tmp_path.resolve() / f'finetune_{"-".join(map(str, found.best))}'

    # The best one's own run begins where the supernet's ended.
    further = train_config(str(found.config), work_dir=str(tmp_path / 'finetune'))
    assert 'search' not in further
    assert further.train_cfg.max_epochs == 1
    assert further.model.generator.channels == list(found.best)
    further.default_scope = 'mmkd'
    further.experiment_name = tmp_path.name
    runner = Runner.from_cfg(further)
    runner.load_or_resume()
    with nets.supernet.narrowed(found.best):
        for data in batch_of(cfg):
            picture = nets.model.data_preprocessor(data)['inputs']['source']
            assert torch.equal(
                runner.model.generator.eval()(picture), nets.supernet(picture)
            )
    runner.train()
    assert runner.iter == 2


def test_a_slice_has_the_weights_of_its_run(run):
    cfg, checkpoint, _ = run
    contents = read_run(cfg, checkpoint)
    channels = [4, 2, 3, 4, 1, 2, 3, 2]
    state = sliced(contents, channels)['state_dict']
    whole = contents['state_dict']
    model = compression(cfg.model.teacher, student=SUPER)
    model['generator'] = dict(
        type='mmkd.MobileResnetGenerator', num_blocks=3, channels=channels
    )
    MODELS.build(model).load_state_dict(state)
    assert state['adapters.convs.0.weight'].shape == (16, 12, 1, 1)
    assert torch.equal(
        state['adapters.convs.0.weight'], whole['adapters.convs.0.weight'][:, :12]
    )
    for key in whole:
        if key.startswith('discriminator.'):
            assert torch.equal(state[key], whole[key])


def test_an_exported_sub_network_is_that_of_the_supernet(run, tmp_path):
    cfg, checkpoint, _ = run
    channels = [3, 2, 4, 1, 2, 4, 3, 2]
    weights, config = export_sub_network(checkpoint, channels, tmp_path / 'small.pth')
    translator = MODELS.build(Config.fromfile(config).model).eval()
    state = torch.load(weights, weights_only=True)['state_dict']
    assert 'model.1.weight' in state  # as the authors release theirs
    translator.load_state_dict(state)
    nets = SubNetworks(cfg, read_run(cfg, checkpoint), 'run')
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    with nets.supernet.narrowed(channels), torch.no_grad():
        assert torch.equal(translator(dict(source=x)), nets.supernet(x))


def test_a_run_is_exported_evaluated_and_teaches(run, tmp_path):
    cfg, checkpoint, _ = run
    weights, config = export_student(checkpoint, tmp_path / 'student.pth')
    evaluated = evaluation_config(str(config), str(weights), work_dir=str(tmp_path))
    assert evaluated.model.type == 'mmkd.Translator'
    assert set(evaluated.model.generator) == set(SUPER)
    again = compression(
        dict(config=str(config), checkpoint=str(weights)),
        inherit=[],
        discriminator=dict(type='mmkd.PatchDiscriminator', in_channels=6, ndf=4),
    )
    teacher = MODELS.build(again).teacher.model
    whole = torch.load(checkpoint, weights_only=False)['state_dict']
    key = 'model.1.weight'
    assert torch.equal(teacher.state_dict()[key], whole[f'generator.{key}'])


def test_a_baseline_has_no_teacher(run, tmp_path):
    cfg, _, _ = run
    path = tmp_path / 'config.py'
    cfg.dump(path)
    plain = train_config(str(path), distill=False)
    assert plain.model.type == 'mmkd.Pix2Pix'
    assert 'teacher' not in plain.model
    assert plain.model.discriminator == cfg.model.teacher.config.model.discriminator
    cfg = Config(cfg.to_dict())
    cfg.model.paired = False
    cfg.dump(path)
    with pytest.raises(ValueError, match='--no-distill needs pairs'):
        train_config(str(path), distill=False)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(search=dict(macs=1e9)), 'must have a metric'),
        (dict(search=dict(metric='a', macs=1, size=3)), "has .*'size'"),
        (
            dict(search=dict(metric='other', macs=2e5)),
            "metric must be one of .*'other'",
        ),
        (dict(val_evaluator=None), 'must have a val_dataloader and a val_evaluator'),
    ],
)
def test_what_a_search_cannot_do_without(change, words, run, tmp_path):
    cfg, checkpoint, _ = run
    cfg = Config({**cfg.to_dict(), **change})
    with pytest.raises(ValueError, match=words):
        search(cfg, checkpoint, settings_of(cfg), tmp_path)


def test_widths_are_of_supernets(run, tmp_path):
    cfg, checkpoint, _ = run
    contents = read_run(cfg, checkpoint)
    run = sliced(contents, [2] * 8)
    with pytest.raises(ValueError, match='is a mmkd.SuperMobileResnetGenerator'):
        sliced(run, [2] * 8)
    with pytest.raises(ValueError, match='at most'):
        sliced(contents, [5] * 8)


def test_a_budget_told_replaces_the_configs(run):
    cfg, *_ = run
    settings = settings_of(cfg, milliseconds=3.0)
    assert (settings.macs, settings.milliseconds) == (None, 3.0)


def test_tools_for_distillers_say_that_they_are_not_for_gans(run, tmp_path):
    cfg = run[0]
    for tool, use in {
        'check': check,
        'benchmark': lambda cfg: setting_of(cfg, 'x'),
        'cache_teacher': lambda cfg: CacheBuilder(cfg, str(tmp_path / 'cache')),
        'tune': lambda cfg: TermSearch([], cfg, tmp_path / 'tune', length=1),
    }.items():
        with pytest.raises(ValueError, match=f'tools/{tool}.py is for students'):
            use(cfg)
    assert not list(tmp_path.iterdir())
