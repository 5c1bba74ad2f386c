"""A teacher that was asked before the training: it is read, and never built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base_teacher import BaseTeacher
from ..batch import Batch
from ..dry_run import DryRun
from ..fileio import file_digest
from ..taps import Tap
from ..teacher_loading import KNOWN
from .key import check_parts, run_parts
from .names import image_name, record_name, shard_name, shard_of, view_name
from .shards import FORMAT, Record, Shard
from .store import Store
from .tap import CachedTap

_OWN = ('cache', 'backend_args', 'config', 'checkpoint')


class CachedTeacher(BaseTeacher):
    """What a teacher says, read from a cache; see ``docs/cache.md``.

    It has the interface of :class:`~mmkd.teacher.Teacher` and no network.

    Args:
        cache: Folder or address of the cache.
        backend_args: Of mmengine's file backend.
        config: Config of the teacher that the cache must be of, if given.
        checkpoint: Its weights.

    Attributes:
        digest: First 8 hex digits of the SHA-256 of the teacher's weights.
        source: Where they came from, for messages.
        is_random: Whether they were random.

    Raises:
        ValueError: If there is no complete cache, or it is of another teacher.
    """

    def __init__(
        self,
        cache: str,
        backend_args: dict | None = None,
        config: Any = None,
        checkpoint: str | None = None,
    ) -> None:
        self.store = Store(cache, backend_args)
        manifest = self.store.manifest()
        if manifest is None:
            raise ValueError(
                f'there is no teacher cache at {cache!r}; make it with '
                f'python tools/cache_teacher.py CONFIG --cache {cache}'
            )
        if manifest['format'] != FORMAT:
            raise ValueError(
                f'the cache at {cache!r} has format {manifest["format"]} and this '
                f'version reads format {FORMAT}; build it anew'
            )
        self._manifest = manifest
        self._teacher = manifest['teacher']
        self.digest: str = self._teacher['digest']
        self.source: str = self._teacher['source']
        self.is_random: bool = self._teacher['is_random']
        self._check_teacher(config, checkpoint)
        self._check_complete()
        self._shards: dict[int, Shard] = {}
        self._roots: list[str] | None = None

    def _check_teacher(self, config: Any, checkpoint: str | None) -> None:
        for name, given in (('config', config), ('checkpoint', checkpoint)):
            known = self._teacher[name]
            if given is None or known is None or not isinstance(given, (str, Path)):
                continue
            if name == 'checkpoint' and Path(given).is_file():
                known, given = self._teacher['checkpoint_sha256'], file_digest(given)
            else:
                known, given = Path(known).name, Path(given).name
            if known != given:
                raise ValueError(
                    f'the cache at {self.store} is of another teacher: its {name} is '
                    f'{known} there and {given} here; build it anew, or leave '
                    f'{name} out beside the cache'
                )

    def _check_complete(self) -> None:
        shards = self._manifest['shards']
        names = [shard_name(number) for number in range(shards)]
        wrong = [(name, self.store.complaint(name)) for name in names]
        wrong = [(name, complaint) for name, complaint in wrong if complaint]
        if wrong:
            name, complaint = wrong[0]
            raise ValueError(
                f'the cache at {self.store} is not complete: {len(wrong)} of {shards} '
                f'files are missing or damaged, such as {name} ({complaint}); complete '
                f'it with python tools/cache_teacher.py CONFIG --cache {self.store}'
            )

    def check_run(self, cfg: Any, dataset: Any, student: nn.Module) -> None:
        """Whether the cache is that of a run; before its first step.

        Args:
            cfg: Config of the run.
            dataset: Its training data.
            student: The distilled model.

        Raises:
            ValueError: Naming the part that differs.
        """
        # It may be a part of another model, as in MMDetection's SoftTeacher.
        student = next(m for m in student.modules() if hasattr(m, 'distiller'))
        parts, roots = run_parts(cfg, dataset, student)
        check_parts(self._manifest['parts'], parts, str(self.store))
        self._roots = roots

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        """How a tap of the teacher is read.

        Raises:
            ValueError: If the cache holds nothing of it.
        """
        taps = self._manifest['taps']
        if path not in taps:
            raise ValueError(
                f'the cache at {self.store} holds nothing of {path!r} in the teacher, '
                f'only of {", ".join(taps)}; build it anew with this config'
            )
        return CachedTap

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        """What the teacher's dry run yielded when the cache was made."""
        taps: dict[str, Tap] = {
            path: CachedTap(path, self._manifest['taps'][path]) for path in tap_types
        }
        return DryRun(taps, size=self._manifest['dry_run_size'])

    @torch.no_grad()
    def run(
        self,
        batch: Batch,
        tap_types: Mapping[str, type[Tap]],
        *args: Any,
    ) -> dict[str, Tap]:
        """Look up what the teacher says of a batch.

        Args:
            batch: The batch as the student gets it.
            tap_types: Path in the teacher -> how it is tapped.
            args: What a live teacher needs beside that.

        Returns:
            Path -> tap, to be finished by the student's.

        Raises:
            RuntimeError: If nobody has compared the cache with the run.
            ValueError: If a view is not in the cache.
        """
        if self._roots is None:
            raise RuntimeError(
                f'the cache at {self.store} was not compared with the training data: '
                "keep default_hooks=dict(distiller_state=dict(type='mmkd."
                "DistillerStateHook')), or in a loop of your own call "
                'model.distiller.teacher.check_run(cfg, dataset, model) first'
            )
        records = [self._record(sample.metainfo) for sample in batch.data_samples]
        taps: dict[str, Tap] = {}
        for path in tap_types:
            fields = [key for key in records[0] if key.rpartition(':')[0] == path]
            entries = {
                key.rpartition(':')[2]: [record[key] for record in records]
                for key in fields
            }
            taps[path] = CachedTap(path, self._manifest['taps'][path], entries)
        return taps

    def _record(self, meta: Mapping[str, Any]) -> Record:
        image = image_name(meta, self._roots or ())
        name = record_name(image, view_name(meta))
        number = shard_of(image, self._manifest['shards'])
        if number not in self._shards:
            self._shards[number] = self._open(number)
        if name not in self._shards[number]:
            raise ValueError(
                f'the cache at {self.store} has no view {view_name(meta)!r} of image '
                f'{image!r}: the pictures or the pipeline changed under it; build it '
                'anew with tools/cache_teacher.py'
            )
        return self._shards[number].read(name)

    def _open(self, number: int) -> Shard:
        shard = self.store.shard(shard_name(number))
        if shard.about['key'] != self._manifest['key']:
            raise ValueError(
                f'{shard.name} is of another cache than the manifest beside it; delete '
                'it and complete the cache with tools/cache_teacher.py'
            )
        return shard

    def __repr__(self) -> str:
        return f'cached in {self.store} ({self.source}, weights {self.digest})'


def cached_teacher(options: Mapping[str, Any]) -> Any:
    """The teacher of ``teacher=dict(cache=...)``.

    Args:
        options: Those of a live teacher may stay beside the cache, so that one config
            serves both; only config and checkpoint are looked at.

    Returns:
        A :class:`CachedTeacher`.

    Raises:
        ValueError: For options that no teacher has.
    """
    unknown = sorted(options.keys() - KNOWN - set(_OWN) - {'_scope_'})
    if unknown:
        raise ValueError(
            f'teacher=dict(cache=...) has no option {", ".join(unknown)}; it takes '
            f'{", ".join(_OWN)}'
        )
    own: dict[str, Any] = {name: options.get(name) for name in _OWN}
    return CachedTeacher(**own)
