"""Checkpoint files: read without running what they contain, or fetched."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import tarfile
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

import torch
from mmengine.utils import ProgressBar
from torch.serialization import MAGIC_NUMBER

from . import restricted_pickle
from .harmless import ForbiddenPickle

__all__ = ['CheckpointError', 'UnsafeCheckpointError', 'fetch', 'load_file']

#: Environment variable that lets the stock loaders trust every file: the one way
#: out where no ``trust=True`` can be passed.
TRUST_VARIABLE = 'MMKD_TRUST_CHECKPOINTS'

_WAY_OUT = (
    'if you trust its origin, load it with trust=True '
    f'(stock OpenMMLab loaders: {TRUST_VARIABLE}=1)'
)
_MAGIC = MAGIC_NUMBER.to_bytes(10, 'little')
_CHUNK = 2**20


class CheckpointError(RuntimeError):
    """A file that cannot be read as a checkpoint."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that asks for more than data, of which nothing has run."""


def load_file(
    path: str | os.PathLike[str],
    map_location: Any = 'cpu',
    trust: bool = False,
) -> Any:
    """Load a checkpoint, accepting only data.

    Tensors, numbers, strings, containers and what numpy and mmengine write
    (``mmkd.compat.harmless``) are data. The same holds on every torch.

    Args:
        path: File written by ``torch.save``, of the zip or the older format.
        map_location: As for ``torch.load``.
        trust: Load with full unpickling: the file may run any code.

    Returns:
        What was saved, mostly a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If it asks for anything else; nothing of it runs.
        CheckpointError: If it is no checkpoint or is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'epoch_1.pth'
        >>> torch.save(dict(meta=dict(epoch=1)), path)
        >>> load_file(path)
        {'meta': {'epoch': 1}}
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    return load_from(str(path), str(path), map_location, trust)


def load_from(
    source: str | IO[bytes], name: str, map_location: Any, trust: bool
) -> Any:
    """:func:`load_file` for a path or an open binary file.

    Args:
        source: Path, or file positioned at its start.
        name: What messages call it.
        map_location: As for ``torch.load``.
        trust: See :func:`load_file`.

    Returns:
        What was saved.
    """
    options: dict[str, Any] = {} if trust else {'pickle_module': restricted_pickle}
    try:
        if not trust:
            _check_format(source, name)
        return torch.load(
            source, map_location=map_location, weights_only=False, **options
        )
    except (CheckpointError, torch.cuda.OutOfMemoryError):
        raise
    except ForbiddenPickle as error:
        raise UnsafeCheckpointError(
            f'{name} is refused: it asks for {error}, which is more than data; '
            + _WAY_OUT
        ) from None
    except Exception as error:
        # Damaged pickles raise nearly everything, from KeyError to struct.error.
        reason = (str(error).splitlines() or [''])[0]
        raise CheckpointError(
            f'{name} cannot be loaded, it may be damaged: '
            f'{type(error).__name__}: {reason}'
        ) from error


def _check_format(source: str | IO[bytes], name: str) -> None:
    """Refuse what ``torch.load`` would hand to other readers than the pickle's."""
    if isinstance(source, str):
        with open(source, 'rb') as file:
            return _check_format(file, name)
    head = source.read(64)
    source.seek(0)
    if head[:4] == b'PK\x03\x04':
        # By torch's own reader: two parsers could see two different archives.
        records = torch._C.PyTorchFileReader(source).get_all_records()
        source.seek(0)
        if 'constants.pkl' in records:
            raise UnsafeCheckpointError(
                f'{name} is refused: it is a TorchScript program; {_WAY_OUT}'
            )
        return None
    is_tar = tarfile.is_tarfile(source)
    source.seek(0)
    if is_tar:
        raise UnsafeCheckpointError(
            f'{name} is refused: it is a tar archive, as torch wrote before 0.2; '
            + _WAY_OUT
        )
    if _MAGIC not in head and not name.endswith('.safetensors'):
        raise CheckpointError(f'{name} is not a checkpoint written by torch.save')
    return None


def fetch(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Local copy of a file of the model zoo, downloaded at the first use.

    It lies where torch and mmengine look, too. The download is written beside it
    and renamed when complete, so an interrupted one leaves nothing behind, and
    compared with the sha256 in the name (``...-25944287.pth``) if there is one.

    Args:
        url: Address of the file.
        folder: Where to keep it; ``checkpoints`` in ``torch.hub.get_dir()`` by
            default.

    Returns:
        Path of the file.

    Raises:
        ConnectionError: If it cannot be downloaded, with the URL and the path
            where to put a copy by hand.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'a.pth').write_bytes(b'already there')
        >>> fetch('https://example.org/zoo/a.pth', folder).name
        'a.pth'
    """
    folder = Path(folder or Path(torch.hub.get_dir()) / 'checkpoints').expanduser()
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{uuid.uuid4().hex}.partial')
    try:
        digest = _download(url, partial)
        expected = re.search(r'-([a-f0-9]{8,})\.pth$', path.name)
        if expected and not digest.startswith(expected[1]):
            raise OSError(f'its sha256 is {digest}, not {expected[1]}...')
        os.replace(partial, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConnectionError(
            f'{url} could not be downloaded ({error}); get it by other means and '
            f'put it at {path}'
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> str:
    """Write ``url`` to ``path``, showing progress; the sha256 of what came."""
    digest = hashlib.sha256()
    # Without a timeout a network that drops packets would hang for ever.
    with urllib.request.urlopen(url, timeout=30) as reply, path.open('wb') as file:
        size = int(reply.headers.get('Content-Length') or 0)
        print(f'Downloading {url} ({size / _CHUNK:.1f} MiB)', file=sys.stderr)
        bar = ProgressBar(-(-size // _CHUNK), file=sys.stderr)
        read: Callable[[], bytes] = lambda: reply.read(_CHUNK)  # noqa: E731
        for chunk in iter(read, b''):
            digest.update(chunk)
            file.write(chunk)
            bar.update()
        print(file=sys.stderr)
        # A connection that breaks off reads like the end of the file.
        if size and file.tell() != size:
            raise OSError(f'only {file.tell()} of {size} bytes arrived')
    return digest.hexdigest()
