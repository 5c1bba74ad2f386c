"""The reference tests notice a wrong sign, a lost factor, another normaliser.

Every ``test_<method>.py`` names its ``FUNCTION``, its ``CASES``, how to
``compare`` one of them to the reference, and ``MUTATIONS``: what to replace by
what in the source of the function.
"""

import importlib
import inspect
from pathlib import Path

import pytest

import mmkd.losses
from mmkd.losses import DistillLoss

LOSSES = [
    value
    for value in vars(mmkd.losses).values()
    if inspect.isclass(value)
    and issubclass(value, DistillLoss)
    and value != DistillLoss
]
METHODS = sorted({loss.__module__.rpartition('.')[2] for loss in LOSSES})
MODULES = {
    method: importlib.import_module(f'test_{method}')
    for method in METHODS
    if (Path(__file__).parent / f'test_{method}.py').is_file()
}
MUTANTS = [
    pytest.param(module, *change, id=f'{method}: {name}')
    for method, module in MODULES.items()
    for name, change in getattr(module, 'MUTATIONS', {}).items()
]


def mutate(function, old: str, new: str):
    """The function, compiled anew with every ``old`` in its code replaced."""
    original = inspect.unwrap(function)
    source = inspect.getsource(original)
    docstring = original.__doc__
    code = source.replace(docstring, '') if docstring else source
    if old not in code:
        pytest.fail(f'{old!r} is no longer in the source of {function.__name__}')
    scratch = dict(original.__globals__)
    exec(code.replace(old, new), scratch)
    return scratch[function.__name__]


def matches_reference(module, function) -> bool:
    try:
        for case in module.CASES:
            module.compare(function, *case)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize('method', METHODS)
def test_every_method_brings_mutations(method):
    module = MODULES.get(method)
    assert module, f'tests/losses/test_{method}.py is missing'
    for name in ('FUNCTION', 'CASES', 'MUTATIONS', 'compare'):
        assert hasattr(module, name), f'test_{method}.py must define {name}'
    assert len(module.MUTATIONS) >= 3
    # Compiling anew without a change must not change anything.
    assert matches_reference(module, mutate(module.FUNCTION, 'return', 'return'))


@pytest.mark.parametrize(('module', 'old', 'new'), MUTANTS)
def test_the_reference_notices(module, old, new):
    assert not matches_reference(module, mutate(module.FUNCTION, old, new))
