"""What is made of the figures, and that rows which fail do not end the others."""

import json

import pytest
import torch
from bench_models import segmentor, setting
from two_ranks import run_two_ranks

from mmkd.benchmark.measure import Measured, measure
from mmkd.benchmark.report import cells, columns, markdown
from mmkd.benchmark.rows import FLOOR, FREE, MMDETECTION, MMKD, STUDENT
from mmkd.benchmark.run import run, varied
from mmkd.preflight.timing import Times

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def made_up(**seconds) -> Measured:
    names = dict(student=STUDENT, floor=FLOOR, mmkd=MMKD)
    times = {
        names[name]: [Times(wall=2 * s, cpu=s) for s in values]
        for name, values in seconds.items()
    }
    return Measured(setting(), times, {MMKD: 3 * 2**20})


def test_ratios_are_those_within_a_round():
    # The second round was disturbed, and the third twice as slow.
    done = made_up(
        student=[0.1, 0.5, 0.2], floor=[0.15, 0.6, 0.3], mmkd=[0.12, 0.7, 0.24]
    )
    assert done.quartiles(MMKD) == pytest.approx((0.18, 0.24, 0.47))
    assert done.ratio(FLOOR, STUDENT) == pytest.approx(1.5)
    assert done.ratio(MMKD, STUDENT) == pytest.approx(1.2)
    assert done.ratio(MMKD, FLOOR) == pytest.approx(0.8)
    assert done.ratio(FREE, STUDENT) is None
    assert cells(done)[2] == [
        MMKD,
        '240.0 ms',
        '180.0-470.0',
        '480.0 ms',
        '3 MiB',
        '1.200',
        '0.800',
    ]
    assert columns(done)[1] == 'CPU time'


def test_without_a_floor_its_column_is_empty():
    done = made_up(student=[0.1], mmkd=[0.2])
    assert [line[-2:] for line in cells(done)] == [['1.000', ''], ['2.000', '']]


def test_a_gpus_time_counts_where_there_is_one():
    assert Times(wall=3, cpu=2, gpu=1).figure == 1
    assert Times(wall=3, cpu=2).figure == 2


def test_the_page_has_every_row_and_note():
    done = made_up(student=[0.1], mmkd=[0.2])
    done.notes.append('floor: it fell')
    page = markdown([done, done], 'python tools/benchmark.py x')
    assert page.count('| mmkd | 200.0 ms |') == 2
    assert page.count('- floor: it fell') == 2
    assert 'python tools/benchmark.py x' in page


def test_a_row_that_fails_is_told_and_the_others_go_on():
    done = measure(segmentor(steps=3), [STUDENT, MMDETECTION, FREE])
    assert list(done.times) == [STUDENT, FREE]
    for row in done.times:
        assert len(done.times[row]) == 3
        assert all(t.cpu > 0 and t.wall > 0 and t.gpu is None for t in done.times[row])
    (note,) = done.notes
    assert note.startswith(f'{MMDETECTION}: ValueError: ')
    assert 'not EncoderDecoder' in note


def test_memory_holds_the_teacher_on_top():
    done = measure(setting(steps=1), [STUDENT, FLOOR, MMKD, FREE])
    assert not done.notes
    assert 0 < done.peaks[STUDENT] < done.peaks[FLOOR]
    assert done.peaks[STUDENT] < done.peaks[MMKD]
    assert FREE not in done.peaks


def test_files_are_written(tmp_path, capsys):
    run(setting(steps=2), [STUDENT, FLOOR, MMKD], tmp_path, profile=True)
    printed = capsys.readouterr().out
    assert 'to the student' in printed
    (line,) = (tmp_path / 'benchmark.jsonl').read_text().splitlines()
    record = json.loads(line)
    assert record['image_size'] == [64, 96]
    assert (record['batch'], record['objects'], record['steps']) == (2, 3, 2)
    assert record['torch'] == torch.__version__
    assert record['ranks'] == 1
    assert list(record['rows']) == [STUDENT, FLOOR, MMKD]
    for row in record['rows'].values():
        assert [sorted(step) for step in row['seconds']] == [['cpu', 'wall']] * 2
        assert row['peak_bytes'] > 0
    assert '| floor |' in (tmp_path / 'benchmark.md').read_text()
    assert (tmp_path / 'benchmark.png').read_bytes()[:4] == b'\x89PNG'
    profile = (tmp_path / 'profile.md').read_text()
    assert profile.count('aten::') > 10
    assert '## student alone' in profile


def test_a_second_run_adds_a_line(tmp_path):
    for _ in range(2):
        run(segmentor(steps=1), [STUDENT], tmp_path)
    assert len((tmp_path / 'benchmark.jsonl').read_text().splitlines()) == 2


def test_a_size_is_varied(tmp_path):
    found = run(setting(steps=1), [STUDENT, MMKD], tmp_path, vary='image-size=64,96x64')
    assert [one.setting.size for one in found] == [(64, 64), (96, 64)]
    assert (tmp_path / 'scaling_image-size.png').read_bytes()[:4] == b'\x89PNG'
    page = (tmp_path / 'benchmark.md').read_text()
    assert '64x64 pixels' in page
    assert '96x64 pixels' in page


def test_whatever_can_be_varied():
    base = setting()
    assert [s.batch for s in varied(base, 'batch-size=1,4')[2]] == [1, 4]
    assert [s.objects for s in varied(base, 'objects=0,9')[2]] == [0, 9]
    name, labels, settings = varied(base, 'teacher=mmdet::a/b.py,c/d.py')
    assert (name, labels) == ('teacher', ['b', 'd'])
    assert [s.cfg.model.teacher.config for s in settings] == ['mmdet::a/b.py', 'c/d.py']
    assert 'backbone' in base.cfg.model.teacher.config.model  # as it was


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('depth=1', "one of .*'teacher'.* but is 'depth=1'"),
        ('objects', "is 'objects'"),
        ('objects=many', "objects: 'many' is no value"),
        ('image-size=16', 'must be >= 32 pixels'),
    ],
)
def test_what_cannot_be_varied(text, match):
    with pytest.raises(ValueError, match=match):
        varied(setting(), text)


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        (dict(batch=0), 'batch must be >= 1 but is 0'),
        (dict(steps=0), 'steps must be >= 1 but is 0'),
        (dict(objects=-1), 'objects must be >= 0 but is -1'),
    ],
)
def test_numbers_are_checked(changes, match):
    with pytest.raises(ValueError, match=match):
        setting(**changes)


def test_of_two_processes_the_slowest_counts(tmp_path):
    from pathlib import Path

    run_two_ranks(Path(__file__).with_name('benchmark_ranks.py'), tmp_path)
    ours, theirs = (torch.load(tmp_path / f'rank{r}.pth') for r in range(2))
    assert ours['notes'] == []
    assert ours['rows'] == theirs['rows']
    assert ours['ranks'] == 2
    assert list(ours['rows']) == [STUDENT, FLOOR, MMKD]
    assert ours['wrapped'] == 'MMDistributedDataParallel'
