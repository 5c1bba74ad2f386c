"""What the demo shows of its progress, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import io

import pytest

pytest.importorskip('rich')
from rich.console import Console

from mmkd.demo import progress
from mmkd.demo.progress import StageDisplay


def run_stage(display: StageDisplay, log: io.StringIO) -> None:
    with display:
        display.start('teacher')
        with contextlib.redirect_stdout(log):
            print('noise of the libraries')
            display.advance(1, 4)
            display.advance(3, 4, 'AP 0.250')
        display.finish('AP 0.250')


def test_lines_reach_the_stream_that_was_there_at_first(monkeypatch, capsys):
    monkeypatch.setattr(progress, '_SECONDS_BETWEEN_LINES', 0)
    log = io.StringIO()
    run_stage(StageDisplay(Console(width=100)), log)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ['teacher', '1/4,'],
        ['teacher', '3/4,'],
        ['teacher', 'AP'],
    ]
    assert 'AP 0.250' in lines[1]
    assert 's left' in lines[1]
    assert log.getvalue() == 'noise of the libraries\n'


def test_lines_are_rare(capsys):
    run_stage(StageDisplay(Console(width=100)), io.StringIO())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_terminal_shows_a_bar():
    file, log = io.StringIO(), io.StringIO()
    run_stage(StageDisplay(Console(file=file, force_terminal=True, width=100)), log)
    (last,) = [line for line in file.getvalue().splitlines() if '4/4' in line][-1:]
    assert 'teacher' in last
    assert 'AP 0.250' in last
    assert log.getvalue() == 'noise of the libraries\n'
