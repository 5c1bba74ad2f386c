"""Texts, tokenized once, read from disk as they are needed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

#: Texts that are tokenized at a time.
_CHUNK = 1000


class TokenStore:
    """Tokens of many texts in two files, of which only what is read is in memory.

    Args:
        folder: With ``tokens.npy``, all tokens behind each other, and ``ends.npy``,
            where each text ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens = np.load(folder / 'tokens.npy', mmap_mode='r')
        self._ends = np.load(folder / 'ends.npy', mmap_mode='r')

    def __reduce__(self) -> tuple:
        # Workers that are not forked open the files anew.
        return TokenStore, (self._folder,)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return np.asarray(self._tokens[start : self._ends[index]])


def write(folder: Path, texts: Iterable[str], tokenizer: Any, longest: int) -> None:
    """Tokenize texts into a new folder, which is there whole or not at all.

    Texts that are too long become several.

    Args:
        folder: Must not exist.
        texts: Read once, as they come.
        tokenizer: Of transformers; special tokens are not added.
        longest: Tokens of a text at most.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix='tokenizing-', dir=folder.parent))
    try:
        ends, total = [], 0
        with open(temporary / 'raw', 'wb') as raw:
            for piece in _pieces(texts, tokenizer, longest):
                raw.write(np.asarray(piece, np.int32).tobytes())
                total += len(piece)
                ends.append(total)
        tokens = np.lib.format.open_memmap(
            temporary / 'tokens.npy', 'w+', np.int32, (total,)
        )
        if total:
            tokens[:] = np.memmap(temporary / 'raw', np.int32, 'r')
        tokens.flush()
        np.save(temporary / 'ends.npy', np.asarray(ends, np.int64))
        (temporary / 'raw').unlink()
        temporary.chmod(0o777 & ~_umask())  # a shared folder is for others, too
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was faster, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _pieces(
    texts: Iterable[str], tokenizer: Any, longest: int
) -> Iterator[Sequence[int]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        told = dict(add_special_tokens=False, truncation=False, verbose=False)
        for ids in tokenizer(chunk, **told)['input_ids']:
            for start in range(0, len(ids), longest):
                yield ids[start : start + longest]


def key_of(told: Any, files: Sequence[Path], tokenizer: Any) -> str:
    """What tells token stores apart: what was tokenized, and by what.

    Args:
        told: What was said of it, as json.
        files: What was read.
        tokenizer: Of transformers.
    """
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    vocabulary = sorted(tokenizer.get_vocab().items())
    digest.update(json.dumps([type(tokenizer).__name__, vocabulary]).encode())
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    digest.update(backend.to_str().encode() if backend is not None else b'')
    for path in files:
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
