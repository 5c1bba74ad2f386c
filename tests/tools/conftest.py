"""What the tools ran on, once for all of their tests."""

from pathlib import Path

import mmengine.runner.runner as runner_module
import pytest
import torch
from mmengine.config import Config
from tiny_models import build
from tool_runs import (
    HINT,
    SEG_STUDENT,
    STUDENT,
    TEACHER,
    call_tool,
    run_tool,
    with_preprocessor,
)
from toy import leave_unformatted

from mmkd.demo.digits import make_digits


@pytest.fixture(scope='session', autouse=True)
def _quick():
    """Whatever these runs do not need: compilers' versions, pretty configs, threads."""
    env = runner_module.collect_env()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, 'collect_env', lambda: env)
        leave_unformatted(patch.setattr)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def place(tmp_path_factory) -> Path:
    """A folder with data, configs and a teacher's checkpoint, as a user has it."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    folder = tmp_path_factory.mktemp('place')
    make_digits(folder / 'big_disk' / 'digits', num_train=8, num_val=6, size=64)
    for name, text in (
        ('student', STUDENT),
        ('teacher', TEACHER),
        ('hint', HINT.format(folder=folder)),
        ('seg_student', SEG_STUDENT.format(width=8)),
        ('seg_teacher', SEG_STUDENT.format(width=16)),
    ):
        (folder / f'{name}.py').write_text(text)
    for name, scope in (('teacher', 'mmdet'), ('seg_teacher', 'mmseg')):
        cfg = Config.fromfile(folder / f'{name}.py')
        model = build(with_preprocessor(cfg), scope, seed=1)
        torch.save(
            dict(state_dict=model.state_dict(), meta=dict(cfg=cfg.pretty_text)),
            folder / f'{name}.pth',
        )
    return folder


@pytest.fixture(autouse=True)
def _data(monkeypatch, request):
    """Configs name `data/digits/`; the digits are elsewhere."""
    if 'place' in request.fixturenames:
        place = request.getfixturevalue('place')
        monkeypatch.setenv('MMKD_DATA', str(place / 'big_disk'))


@pytest.fixture(scope='session')
def hint_run(place) -> Path:
    """Work directory of two distilled epochs, trained from the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(place / 'big_disk'))
        done = run_tool('train', 'hint.py', '--seed', 3, cwd=place)
    assert done.code == 0, done.err
    return place / 'work_dirs' / 'hint'


@pytest.fixture(scope='session')
def seg_run(place) -> Path:
    """Work directory of four distilled iterations of a segmentor."""
    folder = place / 'work_dirs' / 'seg'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(place / 'big_disk'))
        done = call_tool(
            'train', place / 'seg_student.py', '--teacher', place / 'seg_teacher.pth',
            '--method', 'cwd', '--seed', 3, '--work-dir', folder,
        )  # fmt: skip
    assert done.code == 0, done.err
    return folder
