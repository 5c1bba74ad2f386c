"""The whole chain of compression, on a toy."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_toy import OPTIMIZERS, SUPER, pix2pix
from mmengine.config import Config
from mmengine.registry import MODELS
from rich.console import Console

from mmkd.gan.chain import Chain, Stage
from mmkd.gan.chain_report import figure_of, on_screen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Configs of teacher and supernet, and pictures for them."""
    from torchvision.io import write_png

    folder = tmp_path_factory.mktemp('chain')
    (folder / 'pairs').mkdir()
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        picture = torch.randint(0, 255, (3, 16, 32), generator=generator)
        write_png(picture.byte(), str(folder / 'pairs' / f'{i}.png'))
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='mmkd.PairedPictures', data_root=str(folder), folder='pairs'),
    )
    common = dict(
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=dict(type='mmkd.PictureMetrics', metric=['psnr', 'ssim']),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        optim_wrapper=OPTIMIZERS,
        randomness=dict(seed=3),
        custom_imports=dict(imports='mmkd'),
    )
    teacher = folder / 'teacher.py'
    Config(dict(common, model=pix2pix())).dump(teacher)
    model = dict(
        type='mmkd.GANCompression', generator=SUPER, teacher=dict(config=str(teacher))
    )
    search = dict(metric='pictures/psnr', macs=2e5, population=4, generations=1)
    finetune = {'train_cfg.max_epochs': 1}
    cfg = Config(dict(common, model=model, search=search, finetune=finetune))
    cfg.dump(folder / 'supernet.py')
    return folder


def run(tool, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


OPTIONS = ['--teacher-options', 'train_cfg.max_epochs=1']


@pytest.fixture(scope='module')
def work(configs, tmp_path_factory):
    """The work directory of the whole chain, and what the command said."""
    folder = tmp_path_factory.mktemp('work')
    config = configs / 'supernet.py'
    out = run('gan_compress.py', config, '--work-dir', folder, *OPTIONS)
    return folder, out


def test_one_command_runs_every_stage(work):
    folder, out = work
    assert 'fine-tuned' in out
    rows = json.loads((folder / 'report.json').read_text())
    names = [row['name'].split(',')[0] for row in rows]
    assert names == ['teacher', 'found', 'fine-tuned']
    assert rows[1]['cost']['gmacs'] <= 2e-4 < rows[0]['cost']['gmacs']
    assert rows[1]['metrics'] != rows[2]['metrics']
    assert (folder / 'report.md').read_text().count('\n') == 5
    assert (folder / 'report.png').stat().st_size > 1000
    assert (folder / 'teacher' / 'epoch_1.pth').is_file()


def test_what_it_wrote_is_what_the_last_stage_trained(work):
    folder, _ = work
    cfg = Config.fromfile(folder / 'generator.py')
    translator = MODELS.build(cfg.model)
    state = torch.load(folder / 'generator.pth', weights_only=True)['state_dict']
    translator.load_state_dict(state)
    (path,) = folder.glob('finetune_*/epoch_1.pth')
    trained = torch.load(path, weights_only=False)
    for key, value in translator.state_dict().items():
        assert torch.equal(value, trained['state_dict'][key])


def test_every_stage_is_done_once(work, configs):
    folder, _ = work
    config = configs / 'supernet.py'
    files = sorted(folder.glob('*/log.txt'))
    assert len(files) == 3
    before = [file.stat().st_mtime_ns for file in files]
    run('gan_compress.py', config, '--work-dir', folder, *OPTIONS)
    assert before == [file.stat().st_mtime_ns for file in files]

    out = run('gan_compress.py', config, '--work-dir', folder, code=2)
    assert 'teacher holds a stage of another config: name another --work-dir' in out
    assert before == [file.stat().st_mtime_ns for file in files]


def test_a_search_and_an_export_by_hand(work, tmp_path):
    folder, _ = work
    run_of = [folder / 'supernet' / 'config.py', folder / 'supernet' / 'epoch_2.pth']
    told = ['--milliseconds', '1e4', '--metric', 'pictures/ssim', '--trust']
    out = run('gan_search.py', *run_of, '--work-dir', tmp_path / 'search', *told)
    assert ' ssim' in out
    assert ' ms ' in out
    found = Config.fromfile(tmp_path / 'search' / 'finetune.py').model.generator
    channels = found.channels
    told = ['--channels', *channels, '--out', tmp_path / 'small.pth']
    run('export.py', run_of[1], *told)
    state = torch.load(tmp_path / 'small.pth', weights_only=True)['state_dict']
    best = torch.load(tmp_path / 'search' / 'best.pth', weights_only=False)
    for key, value in state.items():
        assert torch.equal(value, best['state_dict'][f'generator.{key}'])
    out = run('export.py', run_of[1], *told, '--raw', code=2)
    assert '--raw and --config must not go with' in out


def told(configs, **changes):
    cfg = Config.fromfile(configs / 'supernet.py')
    cfg.merge_from_dict(changes)
    return cfg


def test_what_fails_says_where(configs, tmp_path):
    cfg = told(configs, **{'train_dataloader.dataset.folder': 'nothing'})
    options = {'train_dataloader.dataset.folder': 'nothing'}
    train = [sys.executable, str(ROOT / 'tools' / 'train.py')]
    chain = Chain(cfg, tmp_path, train, options)
    with pytest.raises(RuntimeError, match="the teacher could not.*'.*nothing' does"):
        chain.teacher(lambda text: None)


def test_a_teacher_with_weights_is_not_trained(configs, tmp_path):
    weights = tmp_path / 'weights.pth'
    cfg = told(configs, **{'model.teacher.checkpoint': str(weights)})
    chain = Chain(cfg, tmp_path, [])
    assert chain.trains_teacher
    weights.touch()
    assert chain.teacher(lambda text: None) is None
    cfg.model.teacher.checkpoint = 'https://example.org/weights.pth'
    assert not chain.trains_teacher


def test_fine_tuning_can_be_left_out(configs, tmp_path):
    cfg = told(configs)
    cfg.finetune = None
    assert not Chain(cfg, tmp_path, []).finetunes
    assert Chain(told(configs), tmp_path, []).finetunes


def test_a_search_that_cannot_be_is_told_first(configs, tmp_path):
    with pytest.raises(ValueError, match='the budget must be at least .* but is 10'):
        Chain(told(configs, **{'search.macs': 10.0}), tmp_path, [])
    with pytest.raises(ValueError, match="metric must be one of .* but is 'psnr'"):
        Chain(told(configs, **{'search.metric': 'psnr'}), tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_what_comes_afterwards_is_no_other_supernet(configs, tmp_path):
    """Another budget or another way to be judged trains nothing again."""
    weights = tmp_path / 'teacher.pth'
    weights.write_bytes(b'1')
    first = told(configs, **{'model.teacher.checkpoint': str(weights)})

    def stage(cfg, name='supernet'):
        trained = []

        def train(name, cfg, watch, about=''):
            trained.append(Stage(tmp_path / name, cfg, about))

        chain = Chain(cfg, tmp_path, [])
        chain._trained = train
        getattr(chain, name)(None, lambda text: None)
        return trained[0]

    stage(first).finish()
    for key, value in (
        ('search.macs', 3e5),
        ('finetune', {'train_cfg.max_epochs': 7}),
        ('val_dataloader.batch_size', 1),
        ('train_dataloader.num_workers', 1),
    ):
        changed = Config(first.to_dict())
        changed.merge_from_dict({key: value})
        assert stage(changed).is_done, key
    changed = Config(first.to_dict())
    changed.train_cfg.max_epochs = 5
    with pytest.raises(ValueError, match='holds a stage of another config'):
        stage(changed)
    weights.write_bytes(b'2')  # another teacher in the same place
    with pytest.raises(ValueError, match='holds a stage of another config'):
        stage(first)


def test_another_budget_searches_again(work, configs):
    folder, _ = work
    before_cost = json.loads((folder / 'report.json').read_text())[1]['cost']['gmacs']
    budget = 0.99 * before_cost * 1e9
    told = [*OPTIONS, '--cfg-options', f'search.macs={budget}']
    file = folder / 'supernet' / 'log.txt'
    before = file.stat().st_mtime_ns
    config = configs / 'supernet.py'
    run('gan_compress.py', config, '--work-dir', folder, *told)
    assert file.stat().st_mtime_ns == before
    found = json.loads((folder / 'report.json').read_text())[1]
    assert found['cost']['gmacs'] < before_cost
    assert len(list(folder.glob('finetune_*'))) == 2  # nothing is lost


def test_another_fine_tuning_is_done_beside_the_first(configs, work):
    folder, _ = work
    before = set(folder.glob('finetune_*'))
    stages = [folder / name / 'log.txt' for name in ('teacher', 'supernet')]
    times = [file.stat().st_mtime_ns for file in stages]
    told = [*OPTIONS, '--cfg-options', 'finetune.train_cfg.max_epochs=2']
    run('gan_compress.py', configs / 'supernet.py', '--work-dir', folder, *told)
    assert times == [file.stat().st_mtime_ns for file in stages]
    (new,) = set(folder.glob('finetune_*')) - before
    assert (new / 'epoch_2.pth').is_file()
    assert all((old / 'epoch_1.pth').is_file() for old in before)


def test_fine_tuning_is_said_once(configs, tmp_path):
    for said, sentence in (
        (['train_cfg'], 'must be None or a dict'),
        (
            {'train_cfg.max_epochs': 1, 'train_cfg': dict(max_epochs=2)},
            "must say 'train_cfg.max_epochs' once",
        ),
    ):
        cfg = told(configs)
        cfg.finetune = said
        with pytest.raises(ValueError, match=sentence):
            Chain(cfg, tmp_path, [])


def test_only_supernets_are_compressed(configs, tmp_path):
    cfg = told(configs, **{'model.generator.type': 'mmkd.MobileResnetGenerator'})
    with pytest.raises(ValueError, match='whose generator is a mmkd.SuperMobile'):
        Chain(cfg, tmp_path, [])


def test_widths_are_read_on_a_narrow_screen():
    widths = 'found, 64-48-32-64-48-32-64-16'
    names = ['', 'pictures/psnr', 'pictures/proxy_fid', 'G multiply-adds', 'ms']
    console = Console(file=io.StringIO(), width=80)
    console.print(
        on_screen(names, [[widths, '12.96', '11.19', '0.2 (5.2x less)', '9']])
    )
    text = console.file.getvalue()
    assert widths in text
    assert '…' not in text
    assert 'psnr' in text
    assert 'pictures' not in text


def test_every_column_of_the_picture_has_a_name():
    edges, made = torch.full((1, 8, 8), -1.0), torch.zeros(3, 8, 8)
    planes = torch.eye(8)[:, None].expand(8, 8, 8)
    rows = [dict(source=edges, teacher=made, target=planes)] * 2
    axes = figure_of(rows).axes
    assert [a.get_title() for a in axes] == ['source', 'teacher', 'target', *[''] * 3]
    black, gray, classes = (a.images[0].get_array() for a in axes[:3])
    assert black.shape == gray.shape == (8, 8, 3)
    assert black.max() == 0
    assert np.allclose(gray, 0.5)
    assert classes.tolist() == [list(range(8))] * 8
