"""Checkpoints: what is data loads, what wants to run is refused unrun."""

import argparse
import collections
import fractions
import functools
import operator
import os
import pickle

import numpy as np
import pickle_bytes as p
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from mmkd.compat.checkpoint import CheckpointError, UnsafeCheckpointError, load_file

HARMLESS = {
    'numbers': [1, -2.5, 2**80, 1j, True, None, 'x', b'\xff\x00', b''],
    'containers': {
        'tuple': (1, (2,)),
        'set': {1, 2},
        'frozenset': frozenset({3}),
        'ordered': collections.OrderedDict(b=1, a=2),
        'counter': collections.Counter({5: 1}),
        'config': ConfigDict(a=ConfigDict(b=1)),
    },
    'torch': [torch.Size([1, 2]), torch.float16, torch.device('cpu')],
    # An mmcv-era `meta`, and the best score in mmengine's message hub.
    'meta': dict(CLASSES=('a', 'b'), PALETTE=[[0, 0, 0]], config='x = 1', epoch=12),
    'scalars': [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True)],
}


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('key', HARMLESS)
def test_harmless_types_come_back(tmp_path, key, zipped, protocol):
    path = tmp_path / 'x.pth'
    torch.save(
        HARMLESS[key],
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    loaded = load_file(path)
    assert loaded == HARMLESS[key]
    assert repr(loaded) == repr(HARMLESS[key])  # types too


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'array',
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.array([]),
        np.array(3, np.uint8),
        np.array([1, 2], '>i4'),
        np.array(['a', 'bc']),
        np.array([b'a', b'bc']),
        np.array([True, False]),
        np.array([1j], np.complex64),
    ],
)
def test_arrays_come_back(tmp_path, array, zipped):
    torch.save([array, array], tmp_path / 'x', _use_new_zipfile_serialization=zipped)
    first, second = load_file(tmp_path / 'x')
    assert first is second
    assert first.dtype == array.dtype.newbyteorder('=')
    np.testing.assert_array_equal(first, array)
    # The byte order of the file reaches the array, not numpy's own type.
    assert np.dtype('i4').byteorder == '='


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_tensors_come_back_with_shared_storage(tmp_path, dtype, zipped):
    whole = torch.arange(12).reshape(3, 4).to(dtype)
    saved = dict(whole=whole, column=whole[:, 1], parameter=nn.Parameter(torch.ones(2)))
    torch.save(saved, tmp_path / 'x', _use_new_zipfile_serialization=zipped)
    loaded = load_file(tmp_path / 'x')
    assert torch.equal(loaded['whole'], whole)
    assert loaded['whole'].dtype == dtype
    assert loaded['column'].stride() == (4,)
    assert loaded['column'].data_ptr() > loaded['whole'].data_ptr()
    assert isinstance(loaded['parameter'], nn.Parameter)
    assert loaded['parameter'].requires_grad


def test_state_dict_keeps_its_versions(tmp_path, device):
    torch.save(nn.BatchNorm2d(2).state_dict(), tmp_path / 'x')
    loaded = load_file(tmp_path / 'x', map_location=device)
    assert loaded._metadata[''] == {'version': 2}
    assert all(tensor.device.type == device.type for tensor in loaded.values())


def test_history_buffers_come_back(tmp_path):
    buffers = dict(loss=HistoryBuffer([1.0, 3.0], [1, 1]), empty=HistoryBuffer())
    torch.save(buffers, tmp_path / 'x')
    loaded = load_file(tmp_path / 'x')
    assert loaded['loss'].mean() == 2.0
    assert loaded['loss'].statistics('max') == 3.0
    assert loaded['empty'].data[0].size == 0
    loaded['loss'].update(5.0)
    assert loaded['loss'].mean() == 3.0


class Writes:
    """Pickled, it writes a file as soon as it is loaded by ``pickle``."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def payloads(target):
    touch = f"open({str(target)!r}, 'w')"
    return {
        f'{os.name}.system': Writes(os.system, f'echo > {target}'),
        'builtins.eval': Writes(eval, touch),
        'builtins.exec': Writes(exec, touch),
        'builtins.__import__': Writes(__import__, 'os'),
        'functools.partial': Writes(functools.partial(eval, touch)),
        'operator.methodcaller': Writes(operator.methodcaller('eval', touch)),
        'fractions.Fraction': fractions.Fraction(1, 2),
        'argparse.Namespace': argparse.Namespace(a=1),
        'torch.serialization.load': Writes(torch.load, str(target)),
        'torch.hub.load': Writes(torch.hub.load, str(target)),
        'numpy.load': Writes(np.load, str(target)),
        'torch.nn.modules.linear.Linear': nn.Linear(1, 1),
    }


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('wanted', payloads(''))
def test_payloads_are_refused_and_do_not_run(tmp_path, wanted, zipped):
    target, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    saved = {'state_dict': {}, 'meta': [payloads(target)[wanted]]}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError) as error:
        load_file(path)
    assert str(path) in str(error.value)
    assert 'trust=True' in str(error.value)
    if wanted != 'numpy.load':  # numpy.load lives in a private module, by version
        assert f'asks for {wanted}, ' in str(error.value)
    assert not target.exists()


def test_trust_runs_what_is_in_the_file(tmp_path):
    target, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    torch.save(payloads(target)['builtins.eval'], path)
    load_file(path, trust=True).close()
    assert target.exists()


def test_refusal_is_a_checkpoint_error():
    assert issubclass(UnsafeCheckpointError, CheckpointError)
    assert issubclass(CheckpointError, RuntimeError)


def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.ReLU()), str(tmp_path / 'x.pth'))
    with pytest.raises(UnsafeCheckpointError, match='TorchScript.*trust=True'):
        load_file(tmp_path / 'x.pth')


def test_tar_archives_are_refused(tmp_path):
    p.write_tar(tmp_path / 'x.pth.tar', p.data({'epoch': 1}))
    with pytest.raises(
        UnsafeCheckpointError, match=r'x\.pth\.tar is refused: it is a tar'
    ):
        load_file(tmp_path / 'x.pth.tar')
    assert load_file(tmp_path / 'x.pth.tar', trust=True) == {'epoch': 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'absent\.pth does not exist'):
        load_file(tmp_path / 'absent.pth')


@pytest.mark.parametrize(
    'contents',
    [
        b'',
        b'classes = 3\nbuiltins\n',
        b'\x89PNG\r\n\x1a\n',
        b'version https://git-lfs.github.com/spec/v1\n',
        pickle.dumps({'a': 1}),
    ],
)
def test_other_files_are_named(tmp_path, contents):
    (tmp_path / 'x.pth').write_bytes(contents)
    with pytest.raises(CheckpointError, match=r'x\.pth is not a checkpoint'):
        load_file(tmp_path / 'x.pth')


@pytest.mark.parametrize('trust', [True, False])
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_named(tmp_path, zipped, share, trust):
    path = tmp_path / 'x.pth'
    torch.save(
        nn.Linear(9, 9).state_dict(), path, _use_new_zipfile_serialization=zipped
    )
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CheckpointError, match=r'^[^\n]*x\.pth cannot be loaded[^\n]*$'):
        load_file(path, trust=trust)


@pytest.mark.parametrize('write', [p.write_zip, p.write_legacy])
@pytest.mark.parametrize(
    'pickled', [b'', b'h\x07', b'\xff', b'R', b'0000', b'X\xff\xff\xff']
)
def test_damaged_pickles_are_named(tmp_path, pickled, write):
    write(tmp_path / 'x.pth', pickled)
    with pytest.raises(CheckpointError, match=r'^[^\n]*x\.pth cannot be loaded'):
        load_file(tmp_path / 'x.pth')
