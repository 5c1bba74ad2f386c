"""``kill -9`` at twenty random moments costs a run no more than one iteration."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killed_run import KILLS, run
from test_atomic_checkpoint_hook import environment
from toy import (
    differences,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    training_state,
)

HERE = Path(__file__).parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('killed')
    done = subprocess.run(
        [sys.executable, str(HERE / 'killed_run.py'), str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def lives(folder):
    """What was found after every kill."""
    return json.loads((folder / 'lives.json').read_text())


def test_the_last_checkpoint_is_whole_after_every_kill(lives):
    """All files under a final name were loaded there; the pointer names the newest."""
    assert len(lives) == KILLS
    before = 0
    for life in lives:
        if life['last'] is None:  # killed before the first one was there
            assert before == 0
            continue
        done = life['iterations'][life['last']]
        # The next file may be there already and the pointer not, never the reverse.
        assert max(life['iterations'].values()) - done in (0, 1)
        assert done >= before
        before = done
    assert before > KILLS / 2


def test_kills_fell_into_the_writing_of_checkpoints_and_elsewhere(lives):
    inside = [bool(life['parts']) for life in lives]
    print(f'{sum(inside)} of {len(inside)} kills fell into a write')
    assert 0 < sum(inside) < KILLS
    # Nothing is left of an earlier one: there is one file at most for each kind.
    assert all(len(life['parts']) <= 1 for life in lives)


def test_the_run_ends_as_if_it_had_never_been_killed(folder, lives, tmp_path):
    """Adapters, critic, schedule and random state, at whatever iteration it was hit."""
    done = lives[-1]['iterations'][lives[-1]['last']]
    again = run(folder / 'run', done + 3, resume=True)
    straight = run(tmp_path, done + 3)
    assert recorded(again) == recorded(straight)[-3:]
    assert differences(training_state(again), training_state(straight)) == []
    critics = [
        r.model.distiller.losses['loss_holistic'].get_extra_state()
        for r in (again, straight)
    ]
    assert differences(*critics) == []
    assert not list((folder / 'run').glob('.*.part'))
