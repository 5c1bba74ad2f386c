"""Every method in two processes is that method in one, as far as the student is."""

import sys
from pathlib import Path

import pytest
import torch
from toy import load, short_and_repeatable  # noqa: F401  (a fixture)
from two_ranks import run_two_ranks

from mmkd.registry import MODELS as REGISTRY

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


@pytest.fixture(scope='module')
def ranks_module():
    """Imported late: it needs both libraries, and the samplers beside det's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE.parent / 'det'))
        import method_ranks

        yield method_ranks
    sys.modules.pop('method_ranks', None)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('methods')
    run_two_ranks(HERE / 'method_ranks.py', folder)
    return [load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.fixture(scope='module')
def whole(ranks_module, short_and_repeatable, tmp_path_factory):  # noqa: F811
    """One process on the joined batches."""
    return ranks_module.train_all(tmp_path_factory.mktemp('whole'))


EQUAL = [
    (name, kind)
    for name in ('gfl', 'faster_rcnn', 'pspnet')
    for kind in ('stock', 'distilled')
]


def is_loss(name: str) -> bool:
    return 'loss' in name


@pytest.mark.parametrize('run', EQUAL, ids='-'.join)
def test_losses_average_to_those_of_one_process(run, ranks, whole):
    pairs = zip(ranks[0][run]['steps'], ranks[1][run]['steps'])
    steps = whole[run]['steps']
    assert len(steps) == 5
    for (one, other), expected in zip(pairs, steps, strict=True):
        assert one.keys() == expected.keys()
        assert one['loss'] != other['loss']
        for name in filter(is_loss, expected):
            mean = (one[name] + other[name]) / 2
            assert mean == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize('run', EQUAL, ids='-'.join)
def test_weights_are_those_of_one_process(run, ranks, whole):
    """To 1e-4 of a tensor's largest weight; adapters included."""
    assert_same_weights(whole[run], run, ranks)
    # And to 1e-4 of the way that training took them.
    assert distance(run, ranks, whole) < 1e-4


def assert_same_weights(one_process, run, ranks):
    for name, weight in one_process['weights'].items():
        limit = 1e-4 * weight.abs().max().item() + 1e-8
        for rank in ranks:
            ours = rank[run]['weights'][name]
            torch.testing.assert_close(ours, weight, rtol=0, atol=limit, msg=name)


#: Every process relates its own images with each other, as BatchNorm does.
RELATIONS_OF_A_BATCH = {'PKDLoss', 'DISTLoss', 'CrossKDLoss'}


def test_every_registered_loss_took_part(ranks_module, whole):
    terms = [t for *_, losses in ranks_module.MODELS.values() for t in losses.values()]
    known = {n for n, c in REGISTRY.module_dict.items() if n.endswith('Loss')}
    took_part = {term['type'].removeprefix('mmkd.') for term in terms}
    assert took_part == known - RELATIONS_OF_A_BATCH
    for name, (*_, losses) in ranks_module.MODELS.items():
        steps = whole[name, 'distilled']['steps']
        for term in losses:
            assert any(step[term] != 0 for step in steps), term


def distance(run, ranks, whole) -> float:
    """Of the trained weights, over how far one process moved them."""
    start, expected = whole[run]['start'], whole[run]['weights']
    names = [name for name in expected if name in start]
    apart = sum(
        (ranks[0][run]['weights'][n] - expected[n]).square().sum() for n in names
    )
    moved = sum((expected[n] - start[n]).square().sum() for n in names)
    return float((apart / moved).sqrt())


def worst(run, ranks, whole) -> float:
    """Largest relative difference of a loss in five steps."""
    steps = zip(*(r[run]['steps'] for r in (*ranks, whole)), strict=True)
    return max(
        abs((one[name] + other[name]) / 2 / expected[name] - 1)
        for one, other, expected in steps
        for name in filter(is_loss, expected)
        if abs(expected[name]) > 1e-3
    )


@pytest.mark.parametrize('kind', ['stock', 'distilled'])
def test_what_batch_norm_changes_is_that_it_sees_half_a_batch(
    kind, ranks, whole, ranks_module, tmp_path
):
    """One process that takes the halves one by one does what two ranks do."""
    run = 'batch_norm', kind
    assert distance(run, ranks, whole) > 1e-2
    halves = ranks_module.train(*run, tmp_path, halves=2)
    assert_same_weights(halves, run, ranks)
    assert len(halves['steps']) == 10
    for number, step in enumerate(halves['steps']):
        rank = ranks[number % 2][run]['steps'][number // 2]
        for name in step:
            assert rank[name] == pytest.approx(step[name], rel=1e-4, abs=1e-6), name


def test_what_a_sampler_draws_differs_no_more_with_terms(ranks, whole):
    """Ranks draw other candidates than one process; relative to what is trained."""
    found = {
        (name, kind): (f((name, kind), ranks, whole))
        for name in ('batch_norm', 'random_sampler')
        for kind in ('stock', 'distilled')
        for f in [lambda *x: (worst(*x), distance(*x))]
    }
    print(found)
    stock, distilled = (found['random_sampler', k] for k in ('stock', 'distilled'))
    assert stock[0] > 0.01  # the draws do differ
    assert distilled[0] < 1.5 * stock[0]
    assert distilled[1] < 1.5 * stock[1]
