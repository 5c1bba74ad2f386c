"""The parts of a report that need no network."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from rich.console import Console

from mmkd.preflight.progress import Stages
from mmkd.report.config_diff import config_diff
from mmkd.report.curves import chart_groups
from mmkd.report.detection import Found, match
from mmkd.report.drawing import draw_box, heat, jpeg
from mmkd.report.environment import git_state
from mmkd.report.evaluate import Options
from mmkd.report.outcome import Outcome, share_closed
from mmkd.report.page import compared_with, ordered, write_report
from mmkd.report.run import logged_environment, newest_checkpoint, read_runs
from mmkd.report.sections import ranked
from mmkd.report.segmentation import counts
from mmkd.report.svg import edge_chart, line_chart, ticks
from mmkd.report.tables import final_table, gap_table, seeds_table

STOCK = "model = dict(type='GFL', depth=18)\ndefault_scope = 'mmdet'\n"
DISTILLED = """
model = dict(type='mmkd.DistillDetector', student=dict(type='GFL', depth=18),
    teacher='t.pth', losses=dict(loss_ld=dict(type='mmkd.X')))
default_scope = 'mmdet'
"""
LOG = """2026/11/26 11:24:20 - mmengine - INFO -
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]
    CUDA available: False
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

    MMEngine: 0.10.7

Runtime environment:
    mp_cfg: {'mp_start_method': 'fork'}
    seed: 3
2026/11/26 11:24:20 - mmengine - INFO - Config:
    not: this
"""


def work_dir(folder, config=STOCK, ap=0.25, start='20260101'):
    """A work directory as MMEngine leaves it."""
    vis = folder / start / 'vis_data'
    vis.mkdir(parents=True)
    lines = [
        dict(
            loss=2.0,
            loss_ld=1.0,
            ld_kl=0.5,
            aug_loss_cls=0.4,
            grad_norm=3.0,
            iter=10,
            step=10,
        ),
        dict(loss=1.0, loss_ld=0.5, ld_kl=0.2, grad_norm=2.0, iter=20, step=20),
        {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': 2 * ap, 'data_time': 0.1, 'step': 2},
    ]
    (vis / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (vis / 'config.py').write_text(config)
    (folder / start / f'{start}.log').write_text(LOG)
    return folder


@pytest.fixture
def runs(tmp_path):
    alone = work_dir(tmp_path / 'alone')
    return read_runs([work_dir(tmp_path / 'ld', DISTILLED, 0.4), alone])


def test_a_run_is_read(runs):
    ld, alone = runs
    assert (ld.name, ld.is_distilled, ld.terms) == ('ld', True, ['loss_ld'])
    assert (alone.name, alone.is_distilled, alone.terms) == ('alone', False, [])
    assert ld.final == {'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_50': 0.8}
    assert ld.final_step == 2
    assert ld.checkpoint is None
    assert 'only its logs' in ld.notes[0]
    assert ld.environment == {
        'sys.platform': 'linux',
        'Python': '3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]',
        'CUDA available': 'False',
        'MMEngine': '0.10.7',
        'seed': '3',
    }


def test_the_newest_start_counts(tmp_path):
    work_dir(tmp_path / 'run')
    work_dir(tmp_path / 'run', DISTILLED, 0.5, start='20260202')
    (run,) = read_runs([tmp_path / 'run'])
    assert run.is_distilled
    assert run.final['coco/bbox_mAP'] == 0.5
    assert run.config_file.parts[-3] == '20260202'


def test_the_checkpoint_is_found_where_the_folder_was_moved_to(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for name in ('epoch_2.pth', 'epoch_10.pth', 'best_x.pth'):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path).name == 'epoch_10.pth'
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/run/epoch_2.pth')
    assert newest_checkpoint(tmp_path).name == 'epoch_2.pth'


def test_a_config_that_is_a_program_is_read_too(tmp_path):
    folder = work_dir(tmp_path / 'run', 'depth = 9 + 9\nmodel = dict(depth=depth)')
    (run,) = read_runs([folder])
    assert run.cfg.model.depth == 18


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (lambda d: ['nowhere'], 'work directory nowhere is no folder'),
        (lambda d: [d / 'empty'], 'holds no log'),
        (lambda d: [d / 'no_config'], 'holds no config'),
        (lambda d: [d / 'no_model'], 'has no model'),
        (lambda d: [d / 'a', d / 'a'], 'is named twice'),
        (lambda d: [d / 'a', d / 'seg'], 'must be of one library but are a of mmdet'),
    ],
)
def test_what_is_no_run_is_a_sentence(tmp_path, break_it, message):
    work_dir(tmp_path / 'a')
    work_dir(tmp_path / 'seg', "model = dict(type='X')\ndefault_scope = 'mmseg'")
    work_dir(tmp_path / 'no_model', 'a = 1')
    (tmp_path / 'empty').mkdir()
    (work_dir(tmp_path / 'no_config') / '20260101' / 'vis_data' / 'config.py').unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_runs([Path(p) for p in break_it(tmp_path)])


def test_a_wrong_name_leaves_no_folder_behind(tmp_path):
    wrong = tmp_path / 'wrong'
    stages = Stages(Console(file=io.StringIO()))
    with pytest.raises(FileNotFoundError, match='is no folder'):
        write_report([wrong], wrong / 'report.html', Options(), stages)
    assert not wrong.exists()


def test_the_baseline_comes_first(runs):
    ld, alone = runs
    assert ordered(runs, None) == [alone, ld]
    assert ordered(runs, ld.work_dir) == [ld, alone]
    with pytest.raises(ValueError, match='--baseline must be one of the work'):
        ordered(runs, 'other')
    assert compared_with([alone, ld]) is ld
    assert compared_with([alone]) is alone


def test_curves_are_grouped(runs):
    groups = {h: [c.key for c in cs] for h, cs in chart_groups(runs).items()}
    assert groups == {
        'Metrics': ['coco/bbox_mAP', 'coco/bbox_mAP_50'],
        'Losses of the task': ['loss'],
        'Losses of the wider network': ['aug_loss_cls'],
        'Losses of distillation': ['loss_ld'],
        'Logged by distillation': ['ld_kl'],
        'What else was logged': ['grad_norm'],
    }
    chart = chart_groups(runs)['Metrics'][0]
    assert chart.table.rows == [['2', '0.400', '0.250']]
    assert 'alone: from 0.25 at epoch 2' not in chart.svg  # no epochs in this config
    assert 'alone: from 0.25 at iteration 2' in chart.svg


def test_the_final_table(runs):
    ld, alone = runs
    teacher = Outcome(metrics={'coco/bbox_mAP': 0.5})
    table = final_table([alone, ld], 0, teacher)
    assert table.header == [
        'metric', 'alone (baseline)', 'ld', 'difference', 'gap closed', 'teacher',
    ]  # fmt: skip
    assert table.rows == [
        ['coco/bbox_mAP', '0.250', '0.400', '+0.150', '60 %', '0.500'],
        ['coco/bbox_mAP_50', '0.500', '0.800', '+0.300', '–', '–'],
    ]
    assert final_table([alone, ld], 0, None).rows[0][1:] == ['0.250', '0.400', '+0.150']


def test_means_over_seeds(tmp_path):
    def seeded(name, config, ap, seed):
        randomness = '' if seed is None else f'randomness = dict(seed={seed})\n'
        extra = f"work_dir = 'x/{name}'\n{randomness}"
        return work_dir(tmp_path / name, config + extra, ap)

    folders = [
        seeded('alone0', STOCK, 0.2, 0),
        seeded('alone1', STOCK, 0.3, 1),
        seeded('ld0', DISTILLED, 0.3, 0),
        seeded('ld1', DISTILLED, 0.5, 1),
        seeded('ld2', DISTILLED, 0.4, 2),
        seeded('other', STOCK + 'x = 1\n', 0.1, 3),
    ]
    table = seeds_table(read_runs(folders))
    assert table.header == [
        'metric',
        'alone0 and 1 more (baseline)',
        'ld0 and 2 more',
        'difference, by seed',
        'other',
        'difference, by seed',
    ]
    assert table.rows[0] == [
        'coco/bbox_mAP',
        '0.250 ± 0.071',
        '0.400 ± 0.100',
        '+0.150 ± 0.071',
        '0.100',
        '–',
    ]
    runs = read_runs([folders[0], folders[2]])
    assert seeds_table(runs) is None
    without = [seeded(f'n{i}', STOCK, ap, None) for i, ap in enumerate((0.2, 0.4))]
    (row, _) = seeds_table(read_runs(without)).rows
    assert row == ['coco/bbox_mAP', '0.300 ± 0.141']


def test_the_gap_by_class():
    values = dict(
        alone=dict(a=0.2, b=None), ld=dict(a=0.3, b=0.1), t=dict(a=0.6, b=0.1)
    )
    table = gap_table('AP by class', 'class', values, 'alone', 't')
    assert table.rows[0][:-1] == ['a', '0.200', '0.300', '+0.100', '25 %', '0.600']
    assert table.rows[0][-1].startswith('<svg')
    assert table.rows[1] == ['b', '–', '0.100', '–', '–', '0.100', '']
    alone = gap_table('AP', 'class', dict(ld=dict(a=0.3)), None, None)
    assert (alone.header, alone.rows) == (['class', 'ld'], [['a', '0.300']])


def test_share_closed_may_be_negative_or_unknown():
    assert share_closed(0.5, 0.25, 1.0) == -0.5
    assert share_closed(None, 0.25, 1.0) is None
    assert share_closed(0.5, 0.6, 0.5) is None


def test_the_config_diff_sees_through_the_teacher():
    student = dict(type='GFL', depth=18, scales=[dict(a=1), 2])
    wrapper = dict(
        type='mmkd.DistillDetector', student=student, teacher='t.pth', losses={}
    )
    base = Config(dict(model=student, work_dir='a'))
    other = Config(dict(model=wrapper, work_dir='b'))
    lines = config_diff(base, other, ('alone', 'ld'))
    assert lines[:2] == ['--- alone', '+++ ld']
    assert [line for line in lines if line.startswith('-') and line[1] != '-'] == []
    assert "+distilled.teacher = 't.pth'" in lines
    assert not any('depth' in line or 'work_dir' in line for line in lines)
    assert config_diff(base, base, ('a', 'b')) == []


def test_pictures_are_ranked_by_the_difference():
    first = Outcome(scores={0: 0.5, 1: 0.9, 2: 0.1, 3: 0.5})
    second = Outcome(scores={0: 0.5, 1: 0.4, 2: 0.9, 3: 0.6})
    assert ranked([0, 1, 2, 3], first, second) == [2, 1, 3, 0]
    assert ranked([0, 1, 2, 3], None, second) == [1, 0, 3, 2]
    assert ranked([3, 1], first, None) == [3, 1]


def test_an_object_is_found_once_and_by_its_class():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    found = Found(
        np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10]], np.float32),
        np.array([1, 1, 2]),
        np.array([0.9, 0.8, 0.7]),
    )
    assert match(found, boxes, np.array([1, 1])).tolist() == [0, -1, -1]
    nothing = np.zeros((0, 4), np.float32)
    assert match(found, nothing, np.zeros(0, int)).tolist() == [-1, -1, -1]


def test_counts_leave_ignored_pixels_out():
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    truth = np.array([[0, 2], [255, 1]], np.uint8)
    assert counts(labels, truth, 3).tolist() == [[1, 1, 0], [1, 2, 0], [1, 1, 1]]


def test_a_chart_is_scaled_to_its_values():
    lines = {0: ('a', [(0, 1.0), (10, 3.0)]), 2: ('<b>', [(0, 2.0)] * 300)}
    svg = line_chart('x', 'loss & more', lines, 'iteration')
    assert 'class="line run0" points="54.0,194.0 410.0,10.0"' in svg
    assert '<title id="x-t">loss &amp; more</title>' in svg
    assert '&lt;b&gt;: from 2' in svg
    assert max(len(part) for part in svg.split('points="')) < 240 * 14
    assert line_chart('y', 'constant', {0: ('a', [(1, 0.0)])}, 'epoch')


@pytest.mark.parametrize('low', [-3.0, 0.0, 0.013, 1e-7, 12345.0])
@pytest.mark.parametrize('span', [1e-6, 0.3, 1.0, 7.0, 1e5])
def test_ticks_cover_the_range_and_are_few(low, span):
    found = ticks(low, low + span, 5)
    assert found[0] <= low + 1e-9 * span
    assert found[-1] >= low + span - 1e-6 * span
    assert 2 <= len(found) <= 8


def test_an_edge_chart_shows_every_network_and_the_truth():
    pixels = dict(student=[0, 8, 16], teacher=[0, 8, 16])
    chances = dict(student=[0.1, 0.8, 0.1], teacher=[0.0, 0.5, 0.5])
    svg = edge_chart('e', 'left edge', 'text', pixels, chances, 9.0)
    assert svg.count('<polyline') == 2
    assert 'class="truth"' in svg


def test_pictures_become_data_uris():
    picture = np.zeros((40, 60, 3), np.uint8)
    draw_box(picture, [5, 10, 50, 35], 'cat 0.9', (0, 255, 0))
    assert picture[35, 30].tolist() == [0, 255, 0]
    dashed = np.zeros((40, 60, 3), np.uint8)
    draw_box(dashed, [-5, 10, 500, 35], '', (0, 255, 0), dashed=True)
    assert 0 < (dashed[35] > 0).any(1).sum() < 60
    assert jpeg(picture).startswith('data:image/jpeg;base64,')
    assert heat(np.eye(3), 0, 0).startswith('data:image/png;base64,')


def test_git_state(tmp_path):
    assert git_state(tmp_path) == 'no git checkout'
    assert logged_environment(tmp_path) == {}
