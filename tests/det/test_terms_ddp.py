"""Distillation terms in two real processes equal those in one."""

import importlib
from pathlib import Path

import pytest
import torch
from term_ranks import distil, joined, prepared
from two_ranks import run_two_ranks

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=['ld_ranks', 'chen_ranks'])
def script(request):
    """Models, terms and batches; samplers of theirs draw nothing at random."""
    return importlib.import_module(request.param)


@pytest.fixture(scope='module')
def ranks(script, tmp_path_factory):
    """What both ranks found."""
    folder = tmp_path_factory.mktemp('ddp')
    run_two_ranks(HERE / f'{script.__name__}.py', folder)
    return [
        torch.load(folder / f'rank{rank}.pth', weights_only=False) for rank in range(2)
    ]


@pytest.fixture(scope='module', params=['objects', 'none_on_a_rank'])
def both(request, script, ranks):
    """What the ranks found and what one process finds on both batches."""
    model = script.models().train()
    raw = joined(*script.BATCHES[request.param])
    whole = distil(model, prepared(model, raw), script.TERMS)
    return request.param, [rank[request.param] for rank in ranks], whole


def test_gradients_are_those_of_one_process_on_the_joined_batch(script, both):
    _, ranks, whole = both
    for term in script.TERMS:
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


def test_values_average_to_that_of_one_process(script, both):
    kind, ranks, whole = both
    for term in script.TERMS:
        values = [rank[term]['value'].item() for rank in ranks]
        assert sum(values) / 2 == pytest.approx(whole[term]['value'].item(), rel=1e-4)
        assert values[0] > 0
        # A rank without objects has nothing to add to some of them.
        if kind == 'none_on_a_rank' and term in script.NEED_OBJECTS:
            assert values[1] == 0
