"""Means, spreads and differences over seeds."""

from __future__ import annotations

import pytest

pytest.importorskip('rich')
from mmkd.demo.report import paired_difference, report_text
from mmkd.demo.runs import ALONE, DISTILLED, TEACHER, RunResult
from mmkd.demo.task import DETECTION
from mmkd.experiments.results import mean_std


def run(name: str, seed: int, ap: float) -> RunResult:
    metrics = {'AP': ap, 'AP50': 2 * ap}
    return RunResult(name, seed, metrics, 100, 61.0, 5000, 0.25, ((100, ap),), 'f')


RESULTS = [
    run(TEACHER, 0, 0.5),
    run(ALONE, 0, 0.1),
    run(DISTILLED, 0, 0.3),
    run(ALONE, 1, 0.3),
    run(DISTILLED, 1, 0.35),
    run(ALONE, 2, 0.2),
    run(DISTILLED, 2, 0.31),
]


def test_differences_are_paired_by_seed():
    assert paired_difference(RESULTS) == pytest.approx([0.2, 0.05, 0.11])
    shuffled = [RESULTS[i] for i in (6, 1, 0, 3, 2, 5, 4)]
    assert paired_difference(shuffled) == pytest.approx([0.2, 0.05, 0.11])


def test_spread_is_the_sample_standard_deviation():
    assert mean_std([0.1, 0.3, 0.2]) == '0.200 ± 0.100'
    assert mean_std([0.5]) == '0.500'


def test_text():
    text = report_text(RESULTS, DETECTION)
    assert '| student alone | 0.200 ± 0.100 | 0.400 ± 0.200 | 5,000 | 0.250 |' in text
    assert '| teacher | 0.500 | 1.000 |' in text
    assert '+0.200, +0.050, +0.110' in text
    assert '0.120 ± 0.075' in text
    assert '| 100 | 1:01 |' in text


def test_result_survives_a_file(tmp_path):
    RESULTS[0].save(tmp_path / 'result.json')
    assert RunResult.load(tmp_path / 'result.json') == RESULTS[0]
    assert RunResult.load(tmp_path / 'none.json') is None
