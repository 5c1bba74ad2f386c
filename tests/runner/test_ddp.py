"""Two real processes under MMDistributedDataParallel."""

from pathlib import Path

import pytest
import torch
from ddp_ranks import JOINED, joined_model
from toy import (
    differences,
    load,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
    training_state,
)
from two_ranks import run_two_ranks

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """What both ranks found, in ``rank0.pth`` and ``rank1.pth``."""
    folder = tmp_path_factory.mktemp('ddp')
    run_two_ranks(HERE / 'ddp_ranks.py', folder)
    return folder


@pytest.fixture(scope='module')
def ranks(folder):
    return [load(folder / f'rank{rank}.pth') for rank in range(2)]


RUNS = [
    'joined',
    'joined, ema',
    'weight 0',
    'epochs',
    'epochs resumed',
    'iterations',
    'iterations resumed',
]


@pytest.mark.parametrize('run', RUNS)
def test_both_ranks_hold_the_same_weights(run, ranks):
    one, other = (rank[run]['state'] for rank in ranks)
    assert differences(one, other) == []
    assert any(name.startswith('distiller.') for name in one['model'])


@pytest.mark.parametrize('run', RUNS)
def test_the_ranks_saw_different_data(run, ranks):
    one, other = (rank[run]['steps'] for rank in ranks)
    assert len(one) == len(other) > 0
    assert all(a['loss_cls'] != b['loss_cls'] for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(('run', 'teacher'), [('joined', None), ('joined, ema', 'ema')])
def test_equals_one_process_on_the_joined_batch(run, teacher, ranks, tmp_path):
    """With a term that a schedule switches off after the first epoch."""
    single = train(joined_model(teacher), tmp_path, **JOINED)
    steps = recorded(single)
    for one, other, whole in zip(*(r[run]['steps'] for r in ranks), steps, strict=True):
        for name, value in whole.items():
            assert (one[name] + other[name]) / 2 == pytest.approx(value, abs=2e-6)
    # At first the average is the student.
    on = [step['loss_hint'] > 0 for step in steps]
    assert on[1:] == [True] * 3 + [False] * 4
    # What the idle term has trained included: neither momentum nor decay moves it.
    for name, value in training_state(single)['model'].items():
        torch.testing.assert_close(
            ranks[0][run]['state']['model'][name], value, rtol=0, atol=2e-6
        )


@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
def test_every_rank_resumes_exactly(kind, ranks):
    for rank in ranks:
        straight, again = rank[kind], rank[f'{kind} resumed']
        assert 0 < len(again['steps']) < len(straight['steps'])
        assert again['steps'] == straight['steps'][-len(again['steps']) :]
        assert differences(straight['state'], again['state']) == []


def test_the_checkpoint_holds_the_random_state_of_every_rank(folder):
    states = load(folder / 'epochs' / 'epoch_1.pth')['distiller']['rng']
    assert len(states) == 2
    assert not torch.equal(states[0]['torch'], states[1]['torch'])
    assert [len(state['workers']) for state in states] == [1, 1]
