"""Where the files of a cache lie: a folder, or storage that mmengine knows."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, get_file_backend

from ..fileio import replacing
from .shards import DamagedError, Shard, expected_size

MANIFEST = 'manifest.json'


class Store:
    """The files of one cache.

    Args:
        folder: Path or address, such as ``'s3://bucket/cache'``.
        backend_args: Of mmengine's file backend; chosen by the address if not given.
    """

    def __init__(self, folder: str, backend_args: dict | None = None) -> None:
        self.folder = str(folder).rstrip('/')
        self._backend: Any = get_file_backend(self.folder, backend_args=backend_args)
        self.is_local = isinstance(self._backend, LocalBackend)

    def __repr__(self) -> str:
        return self.folder

    def path(self, name: str) -> str:
        """Where a file lies."""
        return self._backend.join_path(self.folder, name)

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        return self._backend.exists(self.path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, as a whole or not at all."""
        if not self.is_local:
            self._backend.put(content, self.path(name))
            return
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)

    def manifest(self) -> dict[str, Any] | None:
        """What the cache says of itself; ``None`` if there is no cache.

        Raises:
            ValueError: If the file is no manifest.
        """
        if not self.has(MANIFEST):
            return None
        try:
            found = json.loads(self._backend.get(self.path(MANIFEST)))
        except ValueError as error:
            raise ValueError(f'{self.path(MANIFEST)} is damaged: {error}') from error
        if not isinstance(found, dict) or 'format' not in found:
            raise ValueError(f'{self.path(MANIFEST)} is not that of a teacher cache')
        return found

    def complaint(self, name: str) -> str | None:
        """What is wrong with a file, as far as can be told without reading it."""
        if not self.has(name):
            return 'missing'
        if not self.is_local:
            return None
        path = self.path(name)
        whole = os.path.getsize(path) == expected_size(path)
        return None if whole else 'truncated or damaged'

    def shard(self, name: str) -> Shard:
        """Open a file; from other storage it is fetched once per machine.

        Raises:
            DamagedError: If it was not written as it is.
        """
        if self.is_local:
            return Shard(self.path(name))
        local = self._local_copy(name)
        try:
            return Shard(local, self.path(name))
        except DamagedError:
            local.unlink(missing_ok=True)
            raise

    def _local_copy(self, name: str) -> Path:
        # Named after the manifest, which another cache at this address would change.
        content = self._backend.get(self.path(MANIFEST)) + self.folder.encode()
        mark = hashlib.sha256(content).hexdigest()[:16]
        path = Path(tempfile.gettempdir(), f'mmkd-cache-{os.getuid()}', mark, name)
        if not path.is_file() or path.stat().st_size != expected_size(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path) as temporary:
                temporary.write_bytes(self._backend.get(self.path(name)))
        return path
