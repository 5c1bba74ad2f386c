"""tools/benchmark.py on the command line."""

import json

import pytest
from tool_runs import call_tool, run_tool


@pytest.fixture
def bench(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)

    def call(*arguments):
        return call_tool(
            'benchmark', *arguments, '--device', 'cpu', '--steps', 1, '--out', tmp_path
        )

    return call


def record(folder) -> dict:
    return json.loads((folder / 'benchmark.jsonl').read_text())


def test_a_stock_config_with_a_teacher_on_its_own_data(bench, tmp_path):
    teacher = ('--teacher', 'teacher.py', '--method', 'hint', '--random-teacher')
    done = bench('student.py', *teacher, '--data', '--batch-size', 1)
    assert done.code == 0, done.err
    found = record(tmp_path)
    assert not found['notes']
    assert (found['batch'], found['image_size'], found['objects']) == (1, None, None)
    assert list(found['rows']) == [
        'student alone',
        'floor',
        'floor (trunk)',
        'mmkd',
        'mmkd, teacher for free',
    ]
    assert 'to the floor' in done.out


def test_a_segmentor_on_synthetic_pictures(bench, tmp_path):
    teacher = ('--teacher', 'seg_teacher.pth', '--method', 'cwd')
    done = bench(
        'seg_student.py', *teacher, '--image-size', 48, 64, '--rows', 'mmkd', 'floor'
    )
    assert done.code == 0, done.err
    found = record(tmp_path)
    assert not found['notes']
    assert list(found['rows']) == ['student alone', 'floor', 'mmkd']
    assert (found['image_size'], found['objects']) == ([48, 64], None)


def test_a_cached_teacher_has_a_row_of_its_own(bench, place, tmp_path):
    config = tmp_path / 'ld.py'
    text = (place / 'hint.py').read_text()
    hint = "loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck')"
    assert hint in text
    text = text.replace(hint, "loss_ld=dict(type='mmkd.LocalizationDistillationLoss')")
    config.write_text(text.replace("'student.py'", repr(str(place / 'student.py'))))
    cache = tmp_path / 'cache'
    done = call_tool('cache_teacher', config, '--cache', cache, '--device', 'cpu')
    assert done.code == 0, done.err
    done = bench(config, '--cache', cache, '--rows', 'mmkd', 'mmkd, with cache')
    assert done.code == 0, done.err
    found = record(tmp_path)
    assert not found['notes']
    assert list(found['rows']) == ['student alone', 'mmkd', 'mmkd, with cache']
    peaks = {name: row['peak_bytes'] for name, row in found['rows'].items()}
    assert peaks['mmkd, with cache'] < peaks['mmkd']


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['student.py'], 'error: the config names no teacher'),
        (['hint.py', '--rows', 'flor'], 'error: --rows must match one of'),
        (['hint.py', '--image-size', 8], 'error: --image-size must be >= 32 pixels'),
        (['hint.py', '--vary', 'depth=1'], 'error: --vary must be NAME=VALUE'),
        (['hint.py', '--data', '--vary', 'objects=1'], 'error: --vary objects needs'),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(bench, arguments, sentence):
    done = bench(*arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
    assert len(done.err.strip().splitlines()) == 1


def test_every_option_is_explained(place):
    done = run_tool('benchmark', '--help', cwd=place)
    assert done.code == 0
    for option in ('--rows', '--vary', '--profile', '--random-teacher', '--cache'):
        assert option in done.out
