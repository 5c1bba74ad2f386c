"""Two processes train student and critic as one process does on the joined batch."""

from pathlib import Path

import pytest
import skds_ranks
import torch
from two_ranks import run_two_ranks

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('skds')
    run_two_ranks(HERE / 'skds_ranks.py', folder)
    return [
        torch.load(folder / f'rank{rank}.pth', weights_only=False) for rank in range(2)
    ]


@pytest.fixture(scope='module')
def whole():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = skds_ranks.model()
    torch.manual_seed(5)
    pairs = zip(skds_ranks.batches(0), skds_ranks.batches(1))
    found = skds_ranks.train(model, [skds_ranks.joined(*pair) for pair in pairs])
    torch.set_num_threads(threads)
    return found


def close(actual, expected, name):
    limit = 1e-4 * expected.abs().max().item() + 1e-7
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit, msg=name)


def test_the_student_ends_where_one_process_ends(ranks, whole):
    start = skds_ranks.model().state_dict()
    moved = [(whole['student'][k] - v).abs().max() for k, v in start.items()]
    assert max(moved) > 1e-2
    for name, expected in whole['student'].items():
        for rank in ranks:
            close(rank['student'][name], expected, name)


def test_the_critic_ends_where_one_process_ends(ranks, whole):
    assert whole['critic']['steps'] == skds_ranks.STEPS
    assert whole['critic']['skipped'] == 0
    for rank in ranks:
        assert rank['critic']['seed'] == whole['critic']['seed'] == 5
        for name, expected in whole['critic']['critic'].items():
            close(rank['critic']['critic'][name], expected, name)
    start = skds_ranks.model().distiller.losses['loss_holistic'].critic.state_dict()
    trained = whole['critic']['critic']
    assert max((trained[k] - v).abs().max() for k, v in start.items()) > 1e-3


def test_the_ranks_agree_to_the_last_bit(ranks):
    one, other = (rank['critic']['critic'] for rank in ranks)
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_on_both(ranks):
    for rank in ranks:
        assert rank['after']['skipped'] == 1
        assert rank['after']['steps'] == skds_ranks.STEPS + 1
        for name, weight in rank['critic']['critic'].items():
            after = rank['after']['critic'][name]
            # The power iteration goes on; no weight moves.
            assert torch.equal(after, weight) or name.endswith(('_u', '_v'))


@pytest.mark.parametrize('term', skds_ranks.TERMS)
def test_values_average_to_that_of_one_process(term, ranks, whole):
    for step in range(skds_ranks.STEPS):
        values = [rank['logged'][step][term] for rank in ranks]
        assert values[0] != values[1]
        expected = whole['logged'][step][term]
        assert sum(values) / 2 == pytest.approx(expected, rel=1e-3, abs=1e-6)
