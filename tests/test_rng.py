"""Random state: saved, restored and kept, and plain enough for a checkpoint."""

import random

import numpy as np
import pytest
import torch

from mmkd.rng import get_rng_state, preserved_rng, set_rng_state


def draw() -> list[float]:
    numbers = [random.random(), random.gauss(0, 1), np.random.rand()]
    numbers += [np.random.randn(), torch.rand(1).item(), torch.randn(1).item()]
    if torch.cuda.is_available():
        numbers.append(torch.rand(1, device='cuda').item())
    return numbers


def test_restored_generators_repeat_themselves():
    # An odd number of normal draws: Python and NumPy each hold a second one back.
    draw()
    state = get_rng_state()
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


def test_the_state_survives_a_checkpoint(tmp_path):
    draw()
    torch.save(get_rng_state(), tmp_path / 'state.pth')
    first = draw()
    set_rng_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draw() == first


def test_the_state_holds_builtin_types_and_tensors_only():
    def types(value):
        if isinstance(value, dict):
            return set().union(*(types(v) for v in value.values()))
        if isinstance(value, (list, tuple)):
            return {type(value)}.union(*(types(v) for v in value))
        return {type(value)}

    allowed = {list, tuple, int, float, str, type(None), torch.Tensor}
    assert types(get_rng_state()) <= allowed


def test_the_global_generators_are_kept():
    expected = get_rng_state()
    with preserved_rng():
        before = draw()
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)
    after = get_rng_state()
    assert draw() == before
    assert after['python'] == expected['python']
    assert after['numpy'] == expected['numpy']
    assert torch.equal(after['torch'], expected['torch'])


def test_they_are_kept_when_something_fails():
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), preserved_rng():
        torch.rand(3) + 1 // 0
    assert torch.equal(torch.get_rng_state(), state)


def test_states_of_absent_devices_are_passed_over():
    draw()
    state = get_rng_state()
    # As in a checkpoint of a machine with more of them.
    state['cuda'] += [torch.get_rng_state()] * 8
    first = draw()
    set_rng_state(state)
    assert draw() == first
