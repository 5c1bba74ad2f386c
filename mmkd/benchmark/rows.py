"""The rows of the table: what a training step is made of in each of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from ..config import is_augmented, is_distilled
from ..taps import Tap
from .networks import Networks, Trainee
from .peers import mmdetection_distiller, mmrazor_distiller
from .setting import Setting

STUDENT = 'student alone'
FLOOR = 'floor'
TRUNK = 'floor (trunk)'
MMKD = 'mmkd'
FREE = 'mmkd, teacher for free'
MMDETECTION = "MMDetection's distiller"
MMRAZOR = 'mmrazor'
CACHE = 'mmkd, with cache'
AUGMENTED = 'NetAug'
EXPORTED = 'NetAug, exported'
#: Options of the teacher that change nothing but the cost: each is left out in a row.
EXACT = ('fold_norms', 'channels_last', 'prune')
#: Options by choice: each is added in a row.
CHOICES: Mapping[str, dict[str, Any]] = dict(
    channels_last=dict(channels_last=True),
    bf16=dict(dtype='bf16'),
    fp16=dict(dtype='fp16'),
    compile=dict(compile=True),
    stream=dict(stream=True),
)
#: The first one is the default on a CPU.
_GPU_ONLY = ('channels_last', 'fp16', 'stream')
DEFAULT = (STUDENT, FLOOR, TRUNK, MMKD, FREE)
#: Of a student that NetAug trains, with or without a teacher.
WIDER = (AUGMENTED, EXPORTED)


@dataclass
class Row:
    """What is measured under one name.

    Args:
        trainee: The student.
        run: Does a step on a raw batch, which is the n-th of those measured on.
        memory: Whether its peak means something.
    """

    trainee: Trainee
    run: Callable[[Any, int], Any]
    memory: bool = True


def row_names(patterns: Sequence[str] | None, setting: Setting) -> list[str]:
    """Names of the rows that are measured.

    Args:
        patterns: Shell patterns; without them the first five rows, what NetAug adds
            and the cache, as far as the config has a teacher, NetAug and a cache.
        setting: What is measured; some rows are for GPUs alone.

    Returns:
        The names in their order; the student alone is always there.

    Raises:
        ValueError: If a pattern is the name of no row.
    """
    cache = [CACHE] if setting.cache else []
    wider = WIDER if is_augmented(setting.cfg) else ()
    if is_distilled(setting.cfg):
        on_gpu = setting.device.type == 'cuda'
        choices = [c for c in CHOICES if on_gpu or c not in _GPU_ONLY]
        known = [*DEFAULT, *(f'mmkd, without {name}' for name in EXACT)]
        known += [f'mmkd, with {name}' for name in choices]
        known += [MMDETECTION, MMRAZOR, *cache, *wider]
        wanted = [STUDENT, *(patterns or (*DEFAULT, *cache, *wider))]
    else:
        known = [STUDENT, *wider]
        wanted = [STUDENT, *(patterns or wider)]
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise ValueError(f'--rows must match one of {known} but is {pattern!r}')
    return [n for n in known if any(fnmatch.fnmatchcase(n, p) for p in wanted)]


def build_row(name: str, networks: Networks) -> Row:
    """Build what a row runs.

    Args:
        name: One of :func:`row_names`.
        networks: Builds the models.

    Raises:
        ValueError: If there is no such thing for these models.
    """
    if name == STUDENT:
        return _plain(networks.student)
    if name in (FLOOR, TRUNK):
        return _floor(networks, whole=name == FLOOR)
    if name == MMKD:
        return _plain(networks.distilled)
    if name == FREE:
        return _free(networks.distilled)
    if name == MMDETECTION:
        return _plain(mmdetection_distiller(networks))
    if name == MMRAZOR:
        return _plain(mmrazor_distiller(networks))
    if name in WIDER:
        return _plain(networks.augmented if name == AUGMENTED else networks.exported)
    option = name.rpartition(' ')[2]
    if name == CACHE:
        return _plain(networks.taught_by(dict(cache=networks.setting.cache)))
    if name.startswith('mmkd, without '):
        return _plain(networks.distilled_with(**{option: False}))
    return _plain(networks.distilled_with(**CHOICES[option]))


def _plain(trainee: Trainee) -> Row:
    return Row(trainee, lambda raw, index: trainee.step(raw))


def _floor(networks: Networks, whole: bool) -> Row:
    """The student with a stock teacher that nothing listens to."""
    student, teacher = networks.student, networks.teacher
    network: Any = teacher

    @torch.inference_mode()
    def before(data: Any) -> None:
        if not whole:
            network.extract_feat(data['inputs'])
            return
        # Two-stage detectors leave their proposals in the samples.
        samples = [
            sample.new() if isinstance(sample, BaseDataElement) else sample
            for sample in data['data_samples']
        ]
        network(data['inputs'], samples, mode='tensor')

    both = Trainee(student.model, student.outer, student.optim_wrapper, teacher)
    return Row(both, lambda raw, index: both.step(raw, before))


def _free(trainee: Trainee) -> Row:
    replay = Replay(trainee.model.distiller.teacher)

    def run(raw: Any, index: int) -> Any:
        with replay.of(index):
            return trainee.step(raw)

    # What was recorded lies in memory before the step, in no other row.
    return Row(trainee, run, memory=False)


@dataclass
class Replay:
    """A teacher that runs once for every batch and is replayed afterwards.

    What it finds after the student's pass is replayed, too: with rates of 0 and the
    same seed, a RoI head scores the same RoIs in every step on a batch.

    Args:
        teacher: The :class:`~mmkd.teacher.Teacher`; used as it is outside of
            :meth:`of`.
    """

    teacher: Any
    _taps: dict[int, dict[str, Tap]] = field(default_factory=dict)

    def of(self, index: int) -> _Replaying:
        """Context in which the teacher's part in a batch is replayed.

        Args:
            index: Which batch it is.
        """
        return _Replaying(self, index)

    def taps(self, index: int, *args: Any, **kwargs: Any) -> dict[str, Tap]:
        """What the teacher recorded, as if it had just run."""
        if index not in self._taps:
            self._taps[index] = type(self.teacher).run(self.teacher, *args, **kwargs)
            return self._taps[index]  # the step completes them
        return {path: _complete(tap) for path, tap in self._taps[index].items()}


@dataclass
class _Replaying:
    replay: Replay
    index: int

    def __enter__(self) -> None:
        self.replay.teacher.run = lambda *args, **kwargs: self.replay.taps(
            self.index, *args, **kwargs
        )

    def __exit__(self, *error: Any) -> None:
        del self.replay.teacher.run


def _complete(tap: Tap) -> Tap:
    """A tap with the same recorded tensors, to which nothing has to be added."""
    twin: Any = tap.twin()
    twin.follow = lambda student: None
    return twin
