"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Ending of the hidden files that are being written.
PART_SUFFIX = '.part'


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file as a whole or not at all.

    Args:
        path: The file, which may exist.

    Yields:
        A temporary file in the same folder to write instead. It takes the place
        of ``path`` once its bytes are on the disk.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'note'
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text('safe')
        >>> path.read_text()
        'safe'
    """
    temporary = path.with_name(f'.{path.name}{PART_SUFFIX}')
    try:
        yield temporary
        with temporary.open('rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
