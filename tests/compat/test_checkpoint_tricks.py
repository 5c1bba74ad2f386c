"""Checkpoints that abuse allowed names are refused, and change nothing."""

import numpy as np
import pickle_bytes as p
import pytest
from mmengine.logging import HistoryBuffer

from mmkd.compat.checkpoint import UnsafeCheckpointError, load_file

BUFFER = p.name(*p.BUFFER)
GETATTR = p.name('__builtin__', 'getattr')
ARRAY = p.data(np.ones(1))
NUMPY = 'numpy.core.multiarray'
OBJECTS = p.call(p.name('numpy', 'dtype'), p.text('O8'), p.data(False), p.data(True))
FLOATS = p.call(p.name('numpy', 'dtype'), p.text('f8'), p.data(False), p.data(True))
NEW_ARRAY = p.call(
    p.name(NUMPY, '_reconstruct'),
    p.name('numpy', 'ndarray'),
    p.data((0,)),
    p.data(b'b'),
)


def buffer_with(**state):
    items = b''.join(p.text(key) + value for key, value in state.items())
    return BUFFER + p.EMPTY_TUPLE + p.NEWOBJ + p.EMPTY_DICT + p.MARK + items + b'ub'


def a_buffer(**state):
    plain = dict(max_length=p.data(9), _log_history=ARRAY, _count_history=ARRAY)
    return buffer_with(**{**plain, **state})


def attribute(owner, name):
    return p.call(GETATTR, owner, p.text(name))


TRICKS = {
    # getattr stands for four methods of one class only.
    'dunder': (
        attribute(BUFFER, '__init__'),
        "getattr of .*HistoryBuffer and '__init__'",
    ),
    'private': (attribute(BUFFER, '_set_default_statistics'), 'getattr of'),
    'dotted': (attribute(BUFFER, 'min.__globals__'), 'getattr of'),
    'method': (attribute(attribute(BUFFER, 'min'), '__globals__'), 'getattr of'),
    'other owner': (
        attribute(p.name('torch', 'Size'), 'mean'),
        'getattr of torch.Size',
    ),
    'py3 getattr': (
        p.call(p.name('builtins', 'getattr'), BUFFER, p.text('x')),
        'getattr',
    ),
    # Names.
    'stack global': (
        b'\x8c\x08builtins\x8c\x04eval\x93',
        'builtins.eval',
    ),
    'dotted global': (
        b'\x8c\x1fmmengine.logging.history_buffer\x8c\x11HistoryBuffer.min\x93',
        'HistoryBuffer.min',
    ),
    'copyreg': (p.name('copy_reg', '_reconstructor'), 'copy_reg._reconstructor'),
    'torch._utils': (
        p.name('torch._utils', '_import_dotted_name'),
        'torch._utils._import_dotted_name',
    ),
    'parameter state': (
        p.name('torch._utils', '_rebuild_parameter_with_state'),
        '_rebuild_parameter_with_state',
    ),
    'storage look-alike': (p.name('os', 'StorageSystem'), 'os.StorageSystem'),
    # Calls of what is only a name.
    'call of a class': (p.call(BUFFER, p.data([1.0])), 'a call of .*HistoryBuffer'),
    'call of ndarray': (
        p.call(p.name('numpy', 'ndarray'), p.data((3,))),
        'a call of numpy',
    ),
    'call of a method': (p.call(attribute(BUFFER, 'min'), a_buffer()), 'a call of'),
    'call of a string': (p.call(p.text('x')), 'a call of builtins.str'),
    'call with a list': (
        p.name('torch', 'Size') + p.data([1]) + p.REDUCE,
        'a call without',
    ),
    'new ndarray': (
        p.name('numpy', 'ndarray') + p.data((3,)) + p.NEWOBJ,
        'a new numpy',
    ),
    'new with arguments': (BUFFER + p.data((1,)) + p.NEWOBJ, 'a new .*HistoryBuffer'),
    'INST': (p.MARK + b'icollections\nOrderedDict\n', 'an opcode'),
    'OBJ': (p.MARK + p.name('collections', 'OrderedDict') + b'o', 'an opcode'),
    'EXT1': (b'\x82\x01', 'an opcode'),
    # States.
    'statistics': (
        a_buffer(statistics_methods=p.as_dict('mean', attribute(BUFFER, 'max'))),
        "another function as statistic 'mean'",
    ),
    'new statistic': (
        a_buffer(statistics_methods=p.as_dict('x', attribute(BUFFER, 'max'))),
        "another function as statistic 'x'",
    ),
    'attribute': (a_buffer(__class__=BUFFER), 'other attributes of a HistoryBuffer'),
    'no arrays': (a_buffer(_log_history=p.data([1])), 'without its two arrays'),
    'class state': (
        BUFFER
        + p.tuple_of(p.NONE, p.as_dict('mean', attribute(BUFFER, 'max')))
        + p.BUILD,
        'a state for .*HistoryBuffer',
    ),
    'function state': (
        attribute(BUFFER, 'min') + p.data({'x': 1}) + p.BUILD,
        'a state for',
    ),
    'methods of a dict': (
        p.call(p.name('collections', 'OrderedDict'))
        + p.as_dict('items', attribute(BUFFER, 'min'))
        + p.BUILD,
        'replaced methods of an OrderedDict',
    ),
    'append': (a_buffer() + p.data(1) + b'a', 'items added to a HistoryBuffer'),
    'appends': (
        a_buffer() + p.MARK + p.data(1) + b'e',
        'items added to a HistoryBuffer',
    ),
    'setitem': (ARRAY + p.data(0) + p.data(1) + b's', 'items added to a ndarray'),
    'setitems': (
        ARRAY + p.MARK + p.data(0) + p.data(1) + b'u',
        'items added to a ndarray',
    ),
    'additems': (p.EMPTY_LIST + p.MARK + p.data(1) + b'\x90', 'items added to a list'),
    # numpy would follow these bytes as pointers.
    'object dtype': (OBJECTS, "numpy.dtype\\('O8'\\)"),
    'record dtype': (p.call(p.name('numpy', 'dtype'), p.text('f8,O')), 'numpy.dtype'),
    'void dtype': (p.call(p.name('numpy', 'dtype'), p.text('V8')), 'numpy.dtype'),
    'dtype from a list': (
        p.call(p.name('numpy', 'dtype'), p.data([('a', 'O')])),
        'numpy.dtype',
    ),
    'forged size': (
        FLOATS + p.data((3, '<', None, None, None, 64, 8, 0)) + p.BUILD,
        'a forged layout',
    ),
    'forged fields': (
        FLOATS + p.data((3, '|', None, ('a',), {'a': 1}, -1, -1, 0)) + p.BUILD,
        'a forged layout',
    ),
    'forged flags': (
        FLOATS + p.data((3, '<', None, None, None, -1, -1, 63)) + p.BUILD,
        'a forged layout',
    ),
    'array of objects': (
        NEW_ARRAY
        + p.tuple_of(p.data(1), p.data((1,)), FLOATS, p.data(False), p.data([1]))
        + b'b',
        'not raw bytes',
    ),
    'negative shape': (
        NEW_ARRAY
        + p.tuple_of(
            p.data(1), p.data((-1, -1)), FLOATS, p.data(False), p.data(b'8bytes..')
        )
        + b'b',
        'shape is not numbers',
    ),
    'array subclass': (
        p.call(p.name(NUMPY, '_reconstruct'), BUFFER, p.data((0,)), p.data(b'b')),
        'an array as .*HistoryBuffer',
    ),
    'short scalar': (
        p.call(p.name(NUMPY, 'scalar'), FLOATS, p.data(b'x')),
        'of 1 bytes',
    ),
    'scalar object': (
        p.call(p.name(NUMPY, 'scalar'), FLOATS, p.data([1])),
        'not raw bytes',
    ),
    'codec': (
        p.call(p.name('_codecs', 'encode'), p.text('x'), p.text('rot13')),
        'rot13',
    ),
}


@pytest.mark.parametrize('write', [p.write_zip, p.write_legacy])
@pytest.mark.parametrize('trick', TRICKS)
def test_tricks_with_allowed_names_are_refused(tmp_path, trick, write):
    pickled, reason = TRICKS[trick]
    before = dict(HistoryBuffer._statistics_methods), set(vars(HistoryBuffer))
    write(tmp_path / 'evil.pth', pickled)
    with pytest.raises(UnsafeCheckpointError, match=f'asks for .*{reason}'):
        load_file(tmp_path / 'evil.pth')
    assert before == (dict(HistoryBuffer._statistics_methods), set(vars(HistoryBuffer)))


def test_the_assembled_parts_are_harmless_by_themselves(tmp_path):
    """The tricks fail for their own sake, not because their frame is wrong."""
    state = p.tuple_of(p.data(1), p.data((1,)), FLOATS, p.data(False), p.data(bytes(8)))
    methods = p.as_dict('mean', attribute(BUFFER, 'mean'))
    parts = [a_buffer(statistics_methods=methods), NEW_ARRAY + state + p.BUILD]
    p.write_zip(tmp_path / 'x', p.tuple_of(*parts))
    buffer, array = load_file(tmp_path / 'x')
    assert buffer.statistics('mean') == 1.0
    assert array.tolist() == [0.0]


def test_module_ids_of_the_old_format_are_refused(tmp_path, monkeypatch):
    """torch would compare source code, and may write a patch file."""
    monkeypatch.chdir(tmp_path)
    pid = p.tuple_of(p.text('module'), BUFFER, p.text('a.py'), p.text('source'))
    p.write_legacy(tmp_path / 'evil.pth', pid + b'Q')
    with pytest.raises(UnsafeCheckpointError, match='persistent id'):
        load_file(tmp_path / 'evil.pth')
    assert [file.name for file in tmp_path.iterdir()] == ['evil.pth']
