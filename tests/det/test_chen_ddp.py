"""Chen et al.'s terms in two real processes equal those in one, sampling injected."""

from pathlib import Path

import pytest
import torch
from chen_ranks import BATCHES, TERMS, distil, models
from ld_ranks import joined, prepared
from two_ranks import run_two_ranks

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both ranks found."""
    folder = tmp_path_factory.mktemp('chen_ddp')
    run_two_ranks(HERE / 'chen_ranks.py', folder)
    return [
        torch.load(folder / f'rank{rank}.pth', weights_only=False) for rank in range(2)
    ]


@pytest.fixture(scope='module', params=BATCHES)
def both(request, ranks):
    """What the ranks found and what one process finds on both batches."""
    model = models().train()
    whole = distil(model, prepared(model, joined(*BATCHES[request.param])))
    return request.param, [rank[request.param] for rank in ranks], whole


@pytest.mark.parametrize('term', TERMS)
def test_gradients_are_those_of_one_process_on_the_joined_batch(term, both):
    _, ranks, whole = both
    expected = whole[term]['gradients']
    assert max(g.abs().max() for g in expected.values()) > 1e-4
    for rank in ranks:
        ours = rank[term]['gradients']
        assert ours.keys() == expected.keys()
        for name, gradient in expected.items():
            limit = 1e-4 * gradient.abs().max().item()
            torch.testing.assert_close(
                ours[name], gradient, rtol=0, atol=limit + 1e-8, msg=name
            )


@pytest.mark.parametrize('term', TERMS)
def test_values_average_to_that_of_one_process(term, both):
    _, ranks, whole = both
    values = [rank[term]['value'].item() for rank in ranks]
    assert sum(values) / 2 == pytest.approx(whole[term]['value'].item(), rel=1e-4)
    assert values[0] != values[1]
