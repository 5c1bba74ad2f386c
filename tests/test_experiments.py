"""Plans of training runs, their results and the page made of them."""

import json
from pathlib import Path

import pytest

from mmkd.config import config_root, is_distilled
from mmkd.experiments import plots
from mmkd.experiments.page import write_page
from mmkd.experiments.plan import TASKS, TEACHER, Plan
from mmkd.experiments.results import (
    append_result,
    plan_report,
    read_results,
    result_of,
)
from mmkd.training import train_config

ROOT = Path(__file__).resolve().parents[1]
PLANS = sorted((config_root() / '_experiments_').glob('*.py'))


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.chdir(ROOT)  # plans name configs by their path in the project
    return Plan(config_root() / '_experiments_' / 'bccd_ld.py', Path('work'))


def results_of(plan, stage, best):
    """A result for every run of a stage, AP by row; three seeds spread by 0.01."""
    teacher = dict(stage=stage, row=TEACHER, seed=0, AP=0.5, AP50=0.7, AP75=0.4)
    found = [dict(teacher, train_seconds=60.0)]
    for row in [
        r for r, told in plan.rows.items() if told.get('stage', stage) == stage
    ]:
        for seed in plan.seeds:
            ap = best.get(row, 0.2) + 0.01 * seed
            found.append(dict(found[0], row=row, seed=seed, AP=ap))
    return found


def test_every_run_has_a_key_and_a_folder_of_its_own(plan):
    runs = plan.runs([])
    assert {run.stage for run in runs} == {'breadth'}  # the next one depends on it
    rows = [row for row, told in plan.rows.items() if 'stage' not in told]
    assert len(rows) < len(plan.rows)
    assert len(runs) == 1 + len(rows) * len(plan.seeds)
    assert len({run.key for run in runs}) == len({run.work_dir for run in runs})
    assert runs[0].row == TEACHER
    # Seed by seed: whoever stops has whole comparisons.
    assert [run.row for run in runs[1 : 1 + len(rows)]] == rows


@pytest.mark.parametrize('path', PLANS, ids=lambda path: path.stem)
def test_every_run_is_a_config_that_can_be_read(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(path, Path('work'))
    results = results_of(plan, next(iter(plan.stages)), {})
    runs = {(run.stage, run.row): run for run in plan.runs(results)}
    searched = {row for row, told in plan.rows.items() if 'search' in told}
    assert {row for _, row in runs} == {*plan.rows, TEACHER} - searched
    for run in runs.values():
        teacher = runs[run.stage, TEACHER]
        cfg = train_config(run.config, options=dict(run.options), work_dir='work')
        assert cfg.train_cfg[f'max_{run.unit}s'] == run.length
        if plan.task is TASKS['gan']:  # its rate falls to the end, whenever that is
            assert cfg.param_scheduler.begin == run.length / 2
            assert 'end' not in cfg.param_scheduler
            has_teacher = 'teacher' in cfg.model
            assert has_teacher == ('distilled' in run.row or 'supernet' in run.row)
            if has_teacher:
                assert cfg.model.teacher.checkpoint == str(teacher.checkpoint)
                teachers = train_config(cfg.model.teacher.config)
                assert teachers.model == train_config(plan.teacher).model
            continue
        last = cfg.param_scheduler[-1]
        end = last.T_max if run.unit == 'epoch' else last.end
        # A text encoder's rate is constant after it has warmed up.
        assert end == run.length or plan.task is TASKS['text']
        # Or there is no checkpoint at the end, nor a result.
        saves = 1 if run.unit == 'epoch' else run.length
        assert run.length % cfg.default_hooks.checkpoint.interval == 0 or saves == 1
        assert run.length % cfg.train_cfg.val_interval == 0
        scale = plan.stages[run.stage].get('scale')
        for loader, step in (('train', 2), ('val', 1), ('test', 1)):
            pipeline = cfg[f'{loader}_dataloader'].dataset.get('pipeline')
            assert scale is None or tuple(pipeline[step].scale) == tuple(scale)
        if plan.task is TASKS['text']:
            # Its weights come with its name.
            assert cfg.model.teacher == train_config(plan.teacher).model.student.name
            continue
        named = cfg.model.get('teacher', {}).get('checkpoint')
        named = named or cfg.model.get('teacher_ckpt')
        assert named in (None, str(teacher.checkpoint))
        assert (named is None) == (not (is_distilled(cfg) or 'LDHead' in run.row))


def test_the_terms_of_the_rows(plan):
    terms = {}
    for run in plan.runs([])[1 : 1 + len(plan.rows)]:
        cfg = train_config(run.config, options=dict(run.options), work_dir='work')
        losses = cfg.model.get('losses', {})
        terms[run.row] = {name for name, loss in losses.items() if loss}
    assert terms == {
        'student alone': set(),
        'main LD': {'loss_ld'},
        'main LD + VLR LD': {'loss_ld', 'loss_ld_vlr'},
        'main LD + VLR LD + main KD': {'loss_ld', 'loss_ld_vlr', 'loss_kd'},
        'main LD + VLR LD + main KD + hint': {
            'loss_ld',
            'loss_ld_vlr',
            'loss_kd',
            'loss_hint',
        },
        "MMDetection's LDHead": set(),
        'hint': {'loss_hint'},
        **dict.fromkeys(('CWD', 'PKD', 'MGD', 'FGD', 'CrossKD'), {'loss_one'}),
        **{f'{name}, a tenth': {'loss_one'} for name in ('CWD', 'PKD', 'FGD')},
    }


def test_the_best_rows_go_on(plan):
    best = {
        'main LD': 0.25,
        'main LD + VLR LD': 0.3,
        'main LD + VLR LD + main KD': 0.27,
        'main LD + VLR LD + main KD + hint': 0.1,
    }
    of_this_stage = [r for r, told in plan.rows.items() if told.get('stage') == 'long']
    assert len(of_this_stage) == 5
    results = results_of(plan, 'breadth', best)
    assert plan.rows_of('long', results[:-1]) == []  # one run is missing
    assert plan.rows_of('long', results) == [
        'student alone',
        'main LD',
        'main LD + VLR LD',
        'main LD + VLR LD + main KD',
        "MMDetection's LDHead",
        *of_this_stage,
    ]
    runs = [run for run in plan.runs(results) if run.stage == 'long']
    assert len(runs) == 1 + 10 * len(plan.seeds)
    assert runs[1].length == plan.stages['long'].epochs
    assert runs[9].length == 3 * plan.stages['long'].epochs
    assert runs[1].checkpoint.name == f'epoch_{runs[1].length}.pth'


def test_the_table(plan):
    results = results_of(plan, 'breadth', {'main LD': 0.26})
    text = plan_report(plan, results)
    table = text.split('**long**')[0].splitlines()
    lines = {line.split('|')[1].strip(): line for line in table if '|' in line}
    assert lines['student alone'].startswith('| student alone | 0.210 ± 0.010 |')
    assert '| +0.060 ± 0.000 |' in lines['main LD']
    assert '| 21% |' in lines['main LD']  # 0.06 of 0.5 - 0.21
    assert lines[TEACHER].startswith('| teacher | 0.500 |')
    assert 'main LD + VLR LD' in text.split('**long**')[1]
    partial = plan_report(plan, [r for r in results if r['seed'] == 0])
    assert 'main LD (2 pending)' in partial
    assert 'Pending: its rows follow' in partial.split('**long**')[1]
    assert '| pending |' in plan_report(plan, [])
    # A row that is added to the plan takes no long run away.
    known = dict(results[1], stage='long', AP=0.3)
    later = plan_report(plan, [known]).split('**long**')[1]
    assert 'Pending: more rows follow' in later
    assert '| student alone (2 pending) | 0.300 |' in later


def test_failures_are_told(plan):
    failed = dict(stage='breadth', row='main LD', seed=1, failure='out of memory')
    assert 'main LD, seed 1, failed: `out of memory`' in plan_report(plan, [failed])


def test_lines_are_added_and_read_back(plan, tmp_path):
    path = tmp_path / 'results' / 'bccd_ld.jsonl'
    assert read_results(path) == []
    for result in results_of(plan, 'breadth', {})[:2]:
        append_result(path, result)
    assert [r['row'] for r in read_results(path)] == [TEACHER, 'student alone']
    write_page([plan], path.parent, tmp_path / 'results.md')
    page = (tmp_path / 'results.md').read_text()
    assert page.startswith('# Results')
    assert 'student alone (2 pending)' in page


def logged(folder, *lines):
    scalars = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_what_a_run_gave(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, 'work_dir', tmp_path)
    run = plan.runs([])[1]
    run.work_dir.mkdir(parents=True)
    (run.work_dir / 'log.txt').write_text('all\nlast words\n')
    assert result_of(run, plan.task, 'cmd', 9.0, 1)['failure'] == 'last words'
    logged(
        run.work_dir,
        dict(loss=2.0, loss_cls=1.0, lr=0.1, time=0.5, iter=10),
        dict(loss=1.0, loss_cls=0.5, lr=0.1, time=0.7, iter=20),
        {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP_75': 0.1},
    )
    result = result_of(run, plan.task, 'cmd', 30.04, 0)
    assert result['AP'] == 0.25
    assert result['AP50'] == 0.5
    assert result['iterations'] == 20
    assert result['train_seconds'] == 12.0
    assert result['losses'] == dict(loss=1.0, loss_cls=0.5)
    assert result['epochs'] == run.length
    assert 'failure' not in result


def test_a_plan_of_segmentors(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(config_root() / '_experiments_' / 'camvid_skds.py', tmp_path)
    run = plan.runs([])[1]
    assert run.checkpoint.name == f'iter_{run.length}.pth'
    logged(
        run.work_dir,
        {'loss': 2.0, 'decode.loss_ce': 2.0, 'time': 0.5, 'iter': 50},
        {'mIoU': 41.25, 'mAcc': 50.0, 'aAcc': 80.0, 'step': 50},
    )
    result = result_of(run, plan.task, 'cmd', 30.0, 0)
    assert (result['mIoU'], result['iterations']) == (41.25, 50)
    assert 'epochs' not in result
    other = dict(result, row='pixel', mIoU=43.5)
    teacher = dict(result, row=TEACHER, mIoU=50.25)
    text = plan_report(plan, [result, other, teacher])
    assert '| | mIoU | mAcc | aAcc |' in text
    assert '1000 iterations' in text
    assert '| pixel (2 pending) | 43.50 | 50.00 | 80.00 | +2.25 | 25% |' in text


def test_the_page_has_a_part_for_each_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plans = [Plan(path, tmp_path) for path in PLANS]
    write_page(plans, tmp_path, tmp_path / 'results.md')
    lines = (tmp_path / 'results.md').read_text().splitlines()
    heads = [line for line in lines if line.startswith('## ')]
    parts = ('BCCD', 'CamVid', 'Digits', 'Facades', 'Texts')
    assert heads == [f'## {part}' for part in parts]
    assert not list(tmp_path.glob('*.png'))  # there is nothing to draw
    tables = [line for line in lines if line.startswith('|')]
    widths = [line.count('|') for line in tables]
    heads = [i for i, line in enumerate(tables) if line.startswith('|---')]
    assert len({widths[i] for i in heads}) == 3  # texts and GANs have more columns
    for i, width in enumerate(widths):
        head = max((h for h in heads if h <= i + 1), default=heads[0])
        assert width == widths[head]


def test_the_page_has_a_picture_of_what_was_run(plan, tmp_path):
    for result in results_of(plan, 'breadth', {})[:-2]:
        append_result(tmp_path / 'bccd_ld.jsonl', result)
    append_result(
        tmp_path / 'bccd_ld.jsonl',
        dict(stage='long', row=plan.baseline, seed=0, failure='out of memory'),
    )
    write_page([plan], tmp_path, tmp_path / 'results.md')
    assert f'({tmp_path.name}/bccd_ld.png)' in (tmp_path / 'results.md').read_text()
    assert (tmp_path / 'bccd_ld.png').read_bytes()[:4] == b'\x89PNG'


def test_a_picture_shows_every_seed(plan):
    """Rows in the plan's order, the teacher last, without what failed."""
    results = results_of(plan, 'breadth', {'hint': 0.3})
    results[1] = dict(stage='breadth', row=plan.baseline, seed=0, failure='killed')
    found = plots._values(plan, 'breadth', results)
    rows = [row for row, told in plan.rows.items() if 'stage' not in told]
    assert list(found) == [*rows, TEACHER]
    assert found['hint'] == pytest.approx([0.3, 0.31, 0.32])
    assert len(found[plan.baseline]) == 2
    assert plots._values(plan, 'long', results) == {}


def test_a_plan_names_its_baseline(tmp_path):
    path = tmp_path / 'plan.py'
    path.write_text(
        "data = title = teacher = ''\nbaseline = 'x'\n"
        'seeds = (0,)\nrows = {}\nstages = {}'
    )
    with pytest.raises(ValueError, match="baseline must be a row .* but is 'x'"):
        Plan(path, tmp_path)


def test_where_small_is_good_less_is_a_gain(monkeypatch):
    """Rows are beside their own baselines, and have their own numbers of seeds."""
    monkeypatch.chdir(ROOT)
    plan = Plan(config_root() / '_experiments_' / 'facades_gan.py', Path('work'))
    metrics = dict.fromkeys(plan.task.metrics, 1.0)
    values = {
        TEACHER: 50.0,
        '0.36 G alone': 90.0,
        '0.36 G distilled': 80.0,
        '0.11 G alone': 100.0,
        '0.11 G distilled': 95.0,
        'supernet, whole': 70.0,
    }
    results = [
        {**metrics, 'proxy FID': value, 'stage': 'main', 'row': row, 'seed': seed}
        | dict(train_seconds=60.0)
        for row, value in values.items()
        for seed in ((0,) if row in (TEACHER, 'supernet, whole') else plan.seeds)
    ]
    lines = plan_report(plan, results).splitlines()
    cells = {line.split(' | ')[0].strip('| '): line.split(' | ') for line in lines}
    assert cells['0.36 G distilled'][-3:-1] == ['-10.000 ± 0.000', '25%']
    assert cells['0.11 G distilled'][-3:-1] == ['-5.000 ± 0.000', '10%']
    assert cells['0.11 G alone'][-3:-1] == ['', '']
    assert 'supernet, whole' in cells  # of one run, and none is pending
