"""Pickles assembled by hand, and the two file formats of torch around them."""

import io
import pickle
import tarfile

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

BUFFER = ('mmengine.logging.history_buffer', 'HistoryBuffer')
MARK, TUPLE, REDUCE, BUILD, STOP = b'(', b't', b'R', b'b', b'.'
EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST, NONE, NEWOBJ = b')', b'}', b']', b'N', b'\x81'


def name(module: str, attribute: str) -> bytes:
    return f'c{module}\n{attribute}\n'.encode()


def text(string: str) -> bytes:
    raw = string.encode()
    return b'X' + len(raw).to_bytes(4, 'little') + raw


def data(value: object) -> bytes:
    """Plain data as opcodes that push it."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tuple_of(*items: bytes) -> bytes:
    return MARK + b''.join(items) + TUPLE


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + REDUCE


def as_dict(key: str, value: bytes) -> bytes:
    return EMPTY_DICT + text(key) + value + b's'


def write_zip(path, pickled: bytes, **records: bytes) -> None:
    writer = torch._C.PyTorchFileWriter(str(path))
    contents = {'data.pkl': b'\x80\x02' + pickled + STOP, 'version': b'3\n'}
    for record, raw in {**contents, **records}.items():
        writer.write_record(record, raw, len(raw))
    writer.write_end_of_file()


def write_legacy(path, pickled: bytes) -> None:
    parts = [
        pickle.dumps(MAGIC_NUMBER, protocol=2),
        pickle.dumps(PROTOCOL_VERSION, protocol=2),
        pickle.dumps({'little_endian': True}, protocol=2),
        b'\x80\x02' + pickled + STOP,
        pickle.dumps([], protocol=2),
    ]
    path.write_bytes(b''.join(parts))


def write_tar(path, pickled: bytes) -> None:
    with tarfile.open(path, 'w') as archive:
        for member, raw in (
            ('storages', pickle.dumps(0, 2) + pickle.dumps([], 2)),
            ('tensors', pickle.dumps(0, 2)),
            ('pickle', b'\x80\x02' + pickled + STOP),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
