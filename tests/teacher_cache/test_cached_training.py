"""Trainings with a cache: by the tools, without the teacher's file, resumed."""

from __future__ import annotations

import copy
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from small import cached

TOOLS = Path(__file__).parents[2] / 'tools'


def run(cfg, name: str, **changes) -> dict:
    """Losses of every step of a run, and its last weights."""
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(Path(cfg.work_dir).parent / name)
    cfg.experiment_name = name
    cfg.default_hooks.recorder = dict(type='LossRecorder')
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    (steps,) = [hook.steps for hook in runner.hooks if hasattr(hook, 'steps')]
    return dict(steps=steps, state=runner.model.state_dict(), folder=cfg.work_dir)


def test_a_run_without_the_teachers_file_and_resumed(made, tmp_path, monkeypatch):
    here = made('gfl')
    cfg = cached(here.cfg, here.cache)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.model.teacher.checkpoint = str(tmp_path / 'gone' / 'teacher.pth')

    def never(*args):
        raise AssertionError('the teacher was loaded')

    monkeypatch.setattr('mmkd.teacher.load_teacher', never)
    whole = run(cfg, 'whole')
    assert len(whole['steps']) == 10
    assert all(step['loss_ld'] > 0 for step in whole['steps'])
    first = tmp_path / 'resumed'
    first.mkdir()
    shutil.copy(f'{whole["folder"]}/epoch_1.pth', first / 'epoch_1.pth')
    rest = run(cfg, 'resumed', load_from=str(first / 'epoch_1.pth'), resume=True)
    assert rest['steps'] == whole['steps'][5:]
    for name, value in whole['state'].items():
        assert torch.equal(rest['state'][name], value), name


def test_the_hook_compares_before_the_first_step(made, tmp_path):
    here = made('gfl')
    cfg = cached(here.cfg, here.cache)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.train_dataloader.dataset.indices = 8
    with pytest.raises(ValueError, match='is stale, as the training data changed'):
        run(cfg, 'stale')


def call(name: str, *arguments: object, monkeypatch) -> None:
    """Run a tool in this process, which spares importing everything."""
    monkeypatch.setattr('sys.argv', [name, *map(str, arguments)])
    runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')


def test_the_tools_build_check_and_train(made, tmp_path, monkeypatch, capsys):
    here = made('gfl')
    config, cache, work = (tmp_path / name for name in ('run.py', 'cache', 'work'))
    here.cfg.dump(str(config))
    call('cache_teacher', config, '--cache', cache, monkeypatch=monkeypatch)
    assert 'is complete for this process: 4 files' in capsys.readouterr().out
    entry = f'model.teacher.cache={cache}'
    with pytest.raises(SystemExit) as end:
        call(
            *('check', config, '--steps', 1, '--device', 'cpu', '--cfg-options', entry),
            monkeypatch=monkeypatch,
        )
    report = ' '.join(capsys.readouterr().out.split())
    assert 'it is read from a cache' in report
    assert end.value.code == 0, report
    arguments = ('--cache', cache, '--work-dir', work)
    call('train', config, *arguments, monkeypatch=monkeypatch)
    assert (work / 'epoch_2.pth').is_file()
