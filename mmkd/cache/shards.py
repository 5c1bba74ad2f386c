"""One file of a cache: what the teacher says of some views of some images."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Version of the files' layout.
FORMAT = 1
_ABOUT = 'mmkd'


@dataclass
class Entry:
    """What one field of one tap is in one view.

    Args:
        values: Half precision; of rows (n, ...), of whole maps one flat run.
        shapes: Sizes of the levels, (levels, d), int32: of rows the height and width
            of the grid, of maps the shape without the batch.
        rows: Rows in the view's own grid, ascending, (n,), int32; ``None`` of maps.
    """

    values: Tensor
    shapes: Tensor
    rows: Tensor | None = None


#: Field of a tap (``'bbox_head:logits'``) -> what it is in one view.
Record = dict[str, Entry]


class DamagedError(ValueError):
    """A file of a cache that is not what was written."""


def encode(records: Mapping[str, Record], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file.

    Args:
        records: Name -> record; all with the same fields.
        about: What the file says of itself.

    Returns:
        A safetensors file: runs of all records one behind the other, where each
        ends, and a checksum of each.

    Example:
        >>> entry = Entry(torch.ones(2, 3).half(), torch.ones(1, 2).int(),
        ...     torch.tensor([4, 7], dtype=torch.int32))
        >>> text = encode({'a': {'head:logits': entry}}, dict(key='k'))
        >>> text == encode({'a': {'head:logits': entry}}, dict(key='k'))
        True
    """
    from safetensors.torch import save

    made = list(records.values())
    tensors = {'sums': torch.tensor([_sum(record) for record in made]).long()}
    for key in sorted(made[0]) if made else ():
        entries = [record[key] for record in made]
        lengths = torch.tensor([len(entry.values) for entry in entries])
        tensors[f'{key}/ends'] = lengths.cumsum(0)
        tensors[f'{key}/shapes'] = torch.stack([entry.shapes for entry in entries])
        tensors[f'{key}/values'] = torch.cat([entry.values for entry in entries])
        if entries[0].rows is not None:
            rows = [entry.rows for entry in entries if entry.rows is not None]
            tensors[f'{key}/rows'] = torch.cat(rows)
    told = dict(about, format=FORMAT, records=list(records))
    told['check'] = _check(told, tensors)
    # One text: safetensors writes several in an order that changes.
    return save(tensors, {_ABOUT: json.dumps(told)})


class Shard:
    """A file of a cache, mapped into memory.

    Args:
        path: A local file.
        name: How messages call it; the path if not given.

    Attributes:
        about: What the file says of itself.

    Raises:
        DamagedError: If it was not written as it is.
    """

    def __init__(self, path: str | Path, name: str = '') -> None:
        from safetensors import SafetensorError, safe_open

        self.name = name or str(path)
        try:
            with safe_open(path, framework='pt') as file:
                told = dict(file.metadata() or {})
                # Mapped, not read.
                self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.about = json.loads(told[_ABOUT])
            check = self.about.pop('check')
            fits = check == _check(self.about, self._tensors)
            records = self.about.pop('records')
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise self._damaged(str(error)) from error
        if not fits:
            raise self._damaged('its table has another checksum')
        self._records = {name: index for index, name in enumerate(records)}
        self._fields = sorted(
            key.removesuffix('/values')
            for key in self._tensors
            if key.endswith('/values')
        )

    def _damaged(self, reason: str) -> DamagedError:
        return DamagedError(
            f'{self.name} is truncated or damaged ({reason}); delete it and complete '
            'the cache with tools/cache_teacher.py'
        )

    def __iter__(self) -> Iterable[str]:  # type: ignore[override]
        return iter(self._records)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def read(self, name: str) -> Record:
        """One record, checked.

        Args:
            name: Of the record.

        Raises:
            DamagedError: If its bytes are not those that were written.
            KeyError: If there is none.
        """
        index = self._records[name]
        record = {key: self._entry(key, index) for key in self._fields}
        if _sum(record) != int(self._tensors['sums'][index]):
            raise self._damaged(f'{name!r} has another checksum')
        return record

    def check(self) -> None:
        """Read every record; raise :class:`DamagedError` if one is damaged."""
        for name in self._records:
            self.read(name)

    def _entry(self, key: str, index: int) -> Entry:
        ends = self._tensors[f'{key}/ends']
        run = slice(int(ends[index - 1]) if index else 0, int(ends[index]))
        rows = self._tensors.get(f'{key}/rows')
        return Entry(
            self._tensors[f'{key}/values'][run],
            self._tensors[f'{key}/shapes'][index],
            None if rows is None else rows[run],
        )


def expected_size(path: str | Path) -> int:
    """Bytes that a file has if it is complete, by its first ones.

    Args:
        path: A local safetensors file.

    Returns:
        Its length; -1 if its head is not there.
    """
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        text = file.read(length) if length < 1 << 30 else b''
    try:
        ends = [
            entry['data_offsets'][1]
            for name, entry in json.loads(text).items()
            if name != '__metadata__'
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1
    return 8 + length + max(ends, default=0)


def _check(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Checksum of everything but the runs, which have their own."""
    layout = {key: (str(t.dtype), list(t.shape)) for key, t in tensors.items()}
    found = zlib.crc32(json.dumps([about, layout], sort_keys=True).encode())
    for key in sorted(tensors):
        if not key.endswith(('/values', '/rows')):
            found = zlib.crc32(_bytes(tensors[key]), found)
    return found


def _sum(record: Record) -> int:
    found = 0
    for key in sorted(record):
        entry = record[key]
        for tensor in (entry.rows, entry.values):
            if tensor is not None:
                found = zlib.crc32(_bytes(tensor), found)
    return found


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy().reshape(-1).view('uint8')
