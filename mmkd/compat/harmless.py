"""The types that torch, numpy and mmengine write into checkpoints.

Each is rebuilt by a stand-in that checks its arguments where the original would
accept more than data: numpy's would take an object type for raw bytes, which
ends in following pointers that the file made up.
"""

from __future__ import annotations

import functools
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

#: What ``HistoryBuffer`` pickles by ``getattr``.
_STATISTICS = ('min', 'max', 'current', 'mean')
_PY2_MODULES = {'__builtin__': 'builtins'}


class ForbiddenPickle(pickle.UnpicklingError):
    """What a pickle asked for and does not get."""


def allowed(module: str, name: str) -> Any:
    """What the global ``module.name`` stands for in a checkpoint.

    Args:
        module: Module name as stored, of Python 2 or 3, numpy 1 or 2.
        name: Name in it; dotted names are never allowed.

    Returns:
        The harmless object or its stand-in.

    Raises:
        ForbiddenPickle: Naming the global, when it is not listed.

    Example:
        >>> allowed('torch', 'float32')
        torch.float32
    """
    module = _PY2_MODULES.get(module, module)
    for table in (_callables(), _named_only()):
        if (module, name) in table:
            return table[module, name]
    raise ForbiddenPickle(f'{module}.{name}')


def call(function: Any, arguments: Any) -> Any:
    """Call what a pickle may call.

    Args:
        function: Object from :func:`allowed`.
        arguments: Tuple of positional arguments.

    Returns:
        Its result.

    Raises:
        ForbiddenPickle: When ``function`` is data or arguments are not a tuple.

    Example:
        >>> call(allowed('torch', 'Size'), ([1, 2],))
        torch.Size([1, 2])
    """
    if type(arguments) is not tuple:
        raise ForbiddenPickle('a call without a tuple of arguments')
    # By identity: data may define its own equality.
    if not any(function is known for known in _callables().values()):
        raise ForbiddenPickle(f'a call of {_named(function)}')
    return function(*arguments)


def new(cls: Any, arguments: Any) -> Any:
    """Make an empty ``HistoryBuffer``, the one class pickled that way.

    Args:
        cls: Class from :func:`allowed`.
        arguments: Must be empty.

    Returns:
        The instance, still without state.

    Raises:
        ForbiddenPickle: For anything else.

    Example:
        >>> type(new(HistoryBuffer, ())).__name__
        'HistoryBuffer'
    """
    if cls is not HistoryBuffer or arguments != ():
        raise ForbiddenPickle(f'a new {_named(cls)}')
    return HistoryBuffer.__new__(HistoryBuffer)


def build(instance: Any, state: Any) -> None:
    """Give an instance the state that its type writes, and no other.

    Args:
        instance: Object that an earlier step of the pickle built.
        state: What its ``__reduce_ex__`` or ``__getstate__`` gave.

    Raises:
        ForbiddenPickle: For other types and for states that are not theirs.

    Example:
        >>> d = OrderedDict()
        >>> build(d, {'_metadata': 1})
        >>> d._metadata
        1
    """
    if type(instance) is OrderedDict:
        # `state_dict()` hangs `_metadata` on it; methods must stay methods.
        if type(state) is not dict or any(hasattr(OrderedDict, key) for key in state):
            raise ForbiddenPickle('replaced methods of an OrderedDict')
        instance.__dict__.update(state)
    elif type(instance) is HistoryBuffer:
        _build_history_buffer(instance, state)
    elif type(instance) is np.ndarray:
        _build_array(instance, state)
    elif isinstance(instance, np.dtype):
        _build_dtype(instance, state)
    else:
        raise ForbiddenPickle(f'a state for {_named(instance)}')


def _build_history_buffer(instance: HistoryBuffer, state: Any) -> None:
    expected = {'_log_history': np.ndarray, '_count_history': np.ndarray}
    if type(state) is not dict or not all(
        type(state.get(key)) is kind for key, kind in expected.items()
    ):
        raise ForbiddenPickle('a HistoryBuffer without its two arrays')
    # The statistics are shared by all instances of the process: the stock
    # `__setstate__` would let a file replace them there.
    for name, function in state.get('statistics_methods', {}).items():
        if name not in _STATISTICS or function is not getattr(HistoryBuffer, name):
            raise ForbiddenPickle(f'another function as statistic {name!r}')
    left_over = set(state) - set(expected) - {'statistics_methods', 'max_length'}
    if left_over or type(state.get('max_length')) is not int:
        raise ForbiddenPickle('other attributes of a HistoryBuffer')
    instance._set_default_statistics()
    instance.__dict__.update({k: state[k] for k in (*expected, 'max_length')})


def _build_array(instance: np.ndarray, state: Any) -> None:
    _, shape, dtype, _, raw = state
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ForbiddenPickle('an array whose shape is not numbers')
    if not isinstance(dtype, np.dtype) or type(raw) is not bytes:
        raise ForbiddenPickle('an array that is not raw bytes')
    instance.__setstate__(state)


def _build_dtype(instance: np.dtype, state: Any) -> None:
    # All but the byte order belongs to the type: sizes, fields and flags that
    # differ would make numpy read beyond the data or follow it as pointers.
    own = instance.__reduce__()[2]  # type: ignore[index, misc]
    plain = type(state) is tuple and (state[:1], state[2:]) == (own[:1], own[2:])
    if not plain or state[1] not in ('<', '>', '|', '='):
        raise ForbiddenPickle('a numpy type with a forged layout')
    instance.__setstate__(state)  # type: ignore[attr-defined]


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    if type(code) is not str or np.dtype(code).kind not in 'biufcSU':
        raise ForbiddenPickle(f'numpy.dtype({code!r})')
    # Always a copy: the next opcode sets the byte order in place, which must not
    # reach numpy's own instance.
    return np.dtype(code, False, True)


def _reconstruct(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    if subtype is not np.ndarray or shape != (0,) or code not in (b'b', 'b'):
        raise ForbiddenPickle(f'an array as {_named(subtype)}')
    return np.empty(0, np.int8)


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, np.dtype) or type(raw) is not bytes:
        raise ForbiddenPickle('a numpy scalar that is not raw bytes')
    if len(raw) != dtype.itemsize:
        raise ForbiddenPickle(f'a numpy {dtype} of {len(raw)} bytes')
    return np.frombuffer(raw, dtype)[0]


def _encode(text: Any, encoding: Any) -> bytes:
    # How protocol 2 stores bytes. Other codecs would be looked up by import.
    if type(text) is not str or encoding != 'latin1':
        raise ForbiddenPickle(f'_codecs.encode to {encoding!r}')
    return text.encode('latin1')


def _empty_bytes() -> bytes:
    return b''


def _attribute(owner: Any, name: Any) -> Any:
    if type(name) is str:
        if owner is HistoryBuffer and name in _STATISTICS:
            return getattr(HistoryBuffer, name)
        if owner is _one_cycle() and name in ('_annealing_cos', '_annealing_linear'):
            return getattr(owner, name)
    raise ForbiddenPickle(f'builtins.getattr of {_named(owner)} and {name!r}')


def _one_cycle() -> type:
    # Late: the schedulers import torch.distributed.
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    return OneCycleParamScheduler


@functools.cache
def _callables() -> dict[tuple[str, str], Callable]:
    """What a pickle may name and call."""
    numpy = {
        (core, name): stand_in
        for core in ('numpy.core.multiarray', 'numpy._core.multiarray')
        for name, stand_in in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    }
    tensors = {
        ('torch._utils', name): getattr(torch._utils, name)
        for name in (
            '_rebuild_tensor',
            '_rebuild_tensor_v2',
            '_rebuild_tensor_v3',
            '_rebuild_parameter',
        )
        if hasattr(torch._utils, name)  # v3 came with torch 2.2
    }
    return {
        ('collections', 'OrderedDict'): OrderedDict,
        ('collections', 'Counter'): Counter,
        ('builtins', 'set'): set,
        ('builtins', 'frozenset'): frozenset,
        ('builtins', 'complex'): complex,
        ('builtins', 'bytes'): _empty_bytes,
        ('builtins', 'getattr'): _attribute,
        ('_codecs', 'encode'): _encode,
        ('numpy', 'dtype'): _dtype,
        ('torch', 'Size'): torch.Size,
        ('torch', 'device'): torch.device,
        ('mmengine.config.config', 'ConfigDict'): ConfigDict,
        **numpy,
        **tensors,
    }


@functools.cache
def _named_only() -> dict[tuple[str, str], Any]:
    """What a pickle may name, as an argument of those, and not call."""
    dtypes = {('torch', k): v for k, v in vars(torch).items() if type(v) is torch.dtype}
    one_cycle = _one_cycle()
    return {
        # torch maps the typed storages itself.
        ('torch.storage', 'UntypedStorage'): torch.storage.UntypedStorage,
        ('numpy', 'ndarray'): np.ndarray,
        (HistoryBuffer.__module__, 'HistoryBuffer'): HistoryBuffer,
        (one_cycle.__module__, 'OneCycleParamScheduler'): one_cycle,
        **dtypes,
    }


def _named(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f'{kind.__module__}.{kind.__qualname__}'
