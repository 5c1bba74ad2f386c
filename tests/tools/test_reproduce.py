"""The runner of plans: what is done is skipped, what broke off is told.

Training itself is replaced by a script that logs what a run logs: the tool under
test starts processes, reads their logs and writes lines.
"""

import importlib.util
from pathlib import Path

import pytest
from rich.console import Console

from mmkd.experiments import process
from mmkd.experiments.plan import TEACHER, Plan
from mmkd.experiments.results import read_results

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
data = 'numbers'
title = 'a plan'
teacher = {teacher!r}
baseline = 'alone'
seeds = (0, 1)
rows = dict(alone=dict(config={student!r}), other=dict(config={student!r}))
stages = dict(short=dict(epochs=2, scale=(8, 8)))
"""
CONFIG = """
model = dict(type='A')
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type='LinearLR'), dict(type='CosineAnnealingLR', T_max=3)]
"""
TRAINING = """
import json, os, signal, sys
from pathlib import Path
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
Path({calls!r}).open('a').write(work_dir.name + chr(10))
print('Epoch(train) [1][1/1] lr: 0.1 eta: 0:00:01 time: 1')
failure = Path({calls!r}).with_name(work_dir.name)
if failure.exists():
    if failure.read_text() == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(failure.read_text())
scalars = work_dir / '1' / 'vis_data' / 'scalars.json'
scalars.parent.mkdir(parents=True)
lines = [dict(loss=1.0, time=0.5, iter=4), {{'coco/bbox_mAP': 0.25}}]
scalars.write_text(chr(10).join(map(json.dumps, lines)))
for epochs in (2, 3):
    (work_dir / f'epoch_{{epochs}}.pth').write_text('')
"""


SEARCH = """
import sys
from pathlib import Path
told = sys.argv[1:]
folder = Path(told[told.index('--work-dir') + 1])
Path({calls!r}).open('a').write(folder.name + chr(10))
assert Path(told[1]).is_file(), 'a search needs the weights of its supernet'
assert '--macs=5.0' in told and 'model.depth=3' in told, told
(folder / 'finetune.py').write_text(Path(told[0]).read_text())
"""
SEARCHED = """
whole = dict(config={student!r}, options={{'model.depth': 3}}, seeds=(1,))
rows.update(whole=whole)
rows.update(found=dict(search=dict(supernet='whole', macs=5.0), baseline='other'))
"""


def load_tool():
    spec = importlib.util.spec_from_file_location(
        'reproduce', ROOT / 'tools' / 'reproduce.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def work(tmp_path, monkeypatch, request):
    """Function that works through the plan and returns what was run."""
    added = getattr(request, 'param', '')
    tool = load_tool()
    student, teacher, calls = (tmp_path / n for n in ('s.py', 't.py', 'calls'))
    student.write_text(CONFIG)
    teacher.write_text(CONFIG)
    calls.write_text('')
    training = tmp_path / 'train.py'
    training.write_text(TRAINING.format(calls=str(calls)))
    monkeypatch.setattr(tool, 'TRAIN', training)
    monkeypatch.setattr(process.time, 'sleep', lambda seconds: None)
    path = tmp_path / 'plan.py'
    named = dict(student=str(student), teacher=str(teacher))
    path.write_text((PLAN + added).format(**named))
    (tmp_path / 'gan_search.py').write_text(SEARCH.format(calls=str(calls)))
    plan = Plan(path, tmp_path / 'work')
    results = tmp_path / 'results' / 'plan.jsonl'

    def worked():
        calls.write_text('')
        tool.work_through(plan, results, None, Console(quiet=True))
        return calls.read_text().split()

    worked.results = results
    worked.folder = tmp_path
    return worked


ALL = ['teacher', 'alone-seed0', 'other-seed0', 'alone-seed1', 'other-seed1']


def test_what_is_done_is_not_done_again(work):
    assert work() == ALL
    lines = read_results(work.results)
    assert [(r['row'], r['seed']) for r in lines] == [
        (TEACHER, 0),
        ('alone', 0),
        ('other', 0),
        ('alone', 1),
        ('other', 1),
    ]
    assert all(r['AP'] == 0.25 and r['train_seconds'] == 2.0 for r in lines)
    assert lines[1]['command'].startswith('python tools/train.py ')
    assert work() == []
    text = work.results.read_text().splitlines()
    work.results.write_text('\n'.join(text[:2]) + '\n')  # stopped in between
    for folder in ('other-seed0', 'alone-seed1', 'other-seed1'):
        (work.folder / 'work' / 'plan' / 'short' / folder / '1').rename(
            work.folder / folder.replace('-', '_')
        )
    assert work() == ALL[2:]


def test_a_failure_is_a_result_and_is_told(work):
    (work.folder / 'other-seed0').write_text('out of memory')
    assert work() == ALL
    (failed,) = [r for r in read_results(work.results) if 'failure' in r]
    assert (failed['row'], failed['failure']) == ('other', 'out of memory')
    assert work() == []


def test_a_run_killed_from_outside_is_no_result(work):
    (work.folder / 'other-seed0').write_text('killed')
    with pytest.raises(RuntimeError, match='killed from outside'):
        work()
    assert len(read_results(work.results)) == 2
    (work.folder / 'other-seed0').unlink()
    assert work() == ALL[2:]


def test_without_a_teacher_nothing_is_trained(work):
    (work.folder / 'teacher').write_text('no data')
    with pytest.raises(RuntimeError, match='no teacher'):
        work()
    assert read_results(work.results) == []
    (work.folder / 'teacher').unlink()
    assert work() == ALL
    assert read_results(work.results)[0]['AP'] == 0.25


def test_a_teacher_whose_weights_are_gone_is_trained_again(work):
    work()
    lines = work.results.read_text().splitlines()
    work.results.write_text('\n'.join(lines[:-1]) + '\n')
    short = work.folder / 'work' / 'plan' / 'short'
    (short / 'teacher' / 'epoch_3.pth').unlink()
    for folder in ('teacher', 'other-seed1'):
        (short / folder / '1').rename(work.folder / f'old_{folder}')
    assert work() == ['teacher', 'other-seed1']
    assert work.results.read_text().splitlines()[:4] == lines[:4]
    assert len(read_results(work.results)) == 5  # its line is there already


@pytest.mark.parametrize('work', [SEARCHED], indirect=True)
def test_what_is_found_is_trained_then(work):
    before = [*ALL[:3], 'alone-seed1', 'other-seed1', 'whole-seed1']
    assert work() == [*before, 'search-found', 'found-seed0', 'found-seed1']
    assert work() == []
    lines = work.results.read_text().splitlines()

    # On another machine: a line is missing, and all that made it.
    work.results.write_text('\n'.join(lines[:-1]) + '\n')
    (work.folder / 'work').rename(work.folder / 'old')
    again = ['teacher', 'whole-seed1', 'search-found', 'found-seed1']
    assert work() == again
    assert work.results.read_text().splitlines()[:-1] == lines[:-1]
