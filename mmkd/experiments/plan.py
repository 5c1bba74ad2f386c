"""A plan of training runs: rows, seeds and stages, each run one command."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

TEACHER = 'teacher'


@dataclass(frozen=True)
class Task:
    """How a kind of models is judged.

    Args:
        metrics: Name in the table -> key in the log; the first one ranks the rows.
        digits: Digits behind the point in the table.
        sign: 1 if that one is to be large, -1 if small.
    """

    metrics: Mapping[str, str] = field(hash=False)
    digits: int
    sign: int = 1

    @property
    def main(self) -> str:
        """The metric that ranks."""
        return next(iter(self.metrics))


#: AP is a share, mIoU comes in percent, as the host libraries log them.
TASKS = dict(
    detection=Task(
        dict(AP='coco/bbox_mAP', AP50='coco/bbox_mAP_50', AP75='coco/bbox_mAP_75'), 3
    ),
    segmentation=Task(dict(mIoU='mIoU', mAcc='mAcc', aAcc='aAcc'), 2),
    text=Task(
        dict(
            accuracy='probe/accuracy',
            cosine='transfer/cosine',
            error='transfer/relative_error',
            **{f'layer {i}': f'transfer/layer_{i}' for i in range(1, 7)},
        ),
        3,
    ),
    gan=Task(
        {
            'proxy FID': 'pictures/proxy_fid',
            'PSNR': 'pictures/psnr',
            'SSIM': 'pictures/ssim',
            'G multiply-adds': 'cost/gmacs',
            'ms': 'cost/milliseconds',
        },
        3,
        sign=-1,
    ),
)


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        stage: Name of the stage.
        row: Name of the row, or ``'teacher'``.
        seed: Seed.
        config: Path of the config.
        options: Overrides of the config by dotted key.
        work_dir: Folder of the run.
        unit: Of its length, ``'epoch'`` or ``'iter'``.
        length: Number of them.
    """

    stage: str
    row: str
    seed: int
    config: str
    options: Mapping[str, Any] = field(hash=False)
    work_dir: Path
    unit: str
    length: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the run among the results."""
        return self.stage, self.row, self.seed

    @property
    def checkpoint(self) -> Path:
        """The weights at the end of the training."""
        return self.work_dir / f'{self.unit}_{self.length}.pth'


@dataclass(frozen=True)
class Search:
    """A search for a sub-network.

    Args:
        row: The row that trains what is found.
        runs: Those of the teacher and of the supernet, which come before.
        folder: Gets ``finetune.py``.
        options: Of ``tools/gan_search.py``, by name.
    """

    row: str
    runs: tuple[Run, Run]
    folder: Path
    options: Mapping[str, Any] = field(hash=False)


class Plan:
    """What ``configs/_experiments_/<name>.py`` asks for.

    Its ``options`` are overrides of all its configs.

    A row has a ``config`` and may have ``options`` of it, a ``stage`` if it runs in
    that one alone, ``times``, the factor by which it is longer than other rows, a
    ``baseline`` and ``seeds`` other than the plan's. In place of a config it may have a
    ``search``: options of ``tools/gan_search.py``, and ``supernet``, the row whose
    first run is searched; then it trains what is found.

    Args:
        path: The file.
        work_dir: Where the runs are kept.

    Raises:
        ValueError: If the plan does not name its baseline.
    """

    def __init__(self, path: Path, work_dir: Path) -> None:
        content = Config.fromfile(path)
        self.name = path.stem
        self.title: str = content.title
        self.data: str = content.data
        self.note: str = content.get('note', '')
        self.task: Task = TASKS[content.get('task', 'detection')]
        self.seeds: Sequence[int] = content.seeds
        self.rows: Mapping[str, Any] = content.rows
        self.options: Mapping[str, Any] = content.get('options', {})
        self.stages: Mapping[str, Any] = content.stages
        self.baseline: str = content.baseline
        self.teacher: str = content.teacher
        self.work_dir = work_dir
        if self.baseline not in self.rows:
            raise ValueError(
                f'baseline must be a row of {path} but is {self.baseline!r}'
            )

    def rows_of(self, stage: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Rows of a stage; those of a later one follow from the results before it.

        Args:
            stage: Name of the stage.
            results: What is known, see :mod:`mmkd.experiments.results`.

        Returns:
            The baseline, the best rows by their mean, and those that always run, in
            the order of the plan; empty while an earlier stage is not done.
        """
        count = self.stages[stage].get('best')
        if count is None:
            return [row for row in self.rows if self._runs_in(stage, row)]
        names = list(self.stages)
        before = names[names.index(stage) - 1]
        means = {}
        for row in self.rows:
            if not self._runs_in(before, row):
                continue
            ranked = self.task.main
            values = [r.get(ranked) for r in results if _of(r, before, row)]
            if len(values) < len(self.seeds):
                return []
            # A run that broke off counts as nothing learned.
            means[row] = statistics.fmean(value or 0.0 for value in values)
        others = [row for row in means if row != self.baseline]
        best = sorted(others, key=lambda row: -means[row])[:count]
        chosen = {self.baseline, *best, *self.stages[stage].get('always', ())}
        chosen |= {r for r in self.rows if self.rows[r].get('stage') == stage}
        return [row for row in self.rows if row in chosen]

    def _runs_in(self, stage: str, row: str) -> bool:
        return self.rows[row].get('stage', stage) == stage

    def runs(self, results: Sequence[Mapping[str, Any]]) -> list[Run]:
        """All runs that can be named now, each stage's teacher before its rows."""
        runs = []
        for stage in self.stages:
            rows = self.rows_of(stage, results)
            if not rows:
                continue
            teacher = self._teacher_run(stage)
            runs.append(teacher)
            # Seed by seed: a plan that is cut short has whole comparisons.
            for seed in self.seeds:
                runs += [
                    self._run(stage, row, seed, teacher)
                    for row in rows
                    if seed in self.seeds_of(row) and self._has_config(stage, row)
                ]
        return runs

    def seeds_of(self, row: str) -> Sequence[int]:
        """Seeds of a row."""
        return self.rows[row].get('seeds', self.seeds)

    def baseline_of(self, row: str) -> str:
        """The row that another one is compared with."""
        return self.rows[row].get('baseline', self.baseline)

    def searches(self, results: Sequence[Mapping[str, Any]]) -> list[Search]:
        """The searches on which runs without results wait.

        Args:
            results: What is known.
        """
        found = []
        for stage in self.stages:
            for row in self.rows_of(stage, results):
                options = dict(self.rows[row].get('search') or {})
                known = [r for r in results if _of(r, stage, row)]
                if not options or len(known) == len(self.seeds_of(row)):
                    continue
                if self._has_config(stage, row):
                    continue
                name = options.pop('supernet')
                teacher = self._teacher_run(stage)
                supernet = self._run(stage, name, self.seeds_of(name)[0], teacher)
                folder = self._searched(stage, row).parent
                found.append(Search(row, (teacher, supernet), folder, options))
        return found

    def _searched(self, stage: str, row: str) -> Path:
        folder = self.work_dir / self.name / stage / f'search-{_slug(row)}'
        return folder / 'finetune.py'

    def _has_config(self, stage: str, row: str) -> bool:
        return 'search' not in self.rows[row] or self._searched(stage, row).is_file()

    def _teacher_run(self, stage: str) -> Run:
        options = {**_scaled(self.stages[stage]), **self.options}
        folder = self.work_dir / self.name / stage / TEACHER
        loop = _read(self.teacher).train_cfg
        unit = 'epoch' if 'max_epochs' in loop else 'iter'
        length = loop[f'max_{unit}s']
        return Run(stage, TEACHER, 0, self.teacher, options, folder, unit, length)

    def _run(self, stage: str, row: str, seed: int, teacher: Run) -> Run:
        settings = self.rows[row]
        length = round(length_of(self.stages[stage]) * settings.get('times', 1))
        end = 'T_max' if teacher.unit == 'epoch' else 'end'
        path = settings.get('config') or str(self._searched(stage, row))
        config = _read(path)
        options = {
            **_scaled(self.stages[stage]),
            f'train_cfg.max_{teacher.unit}s': length,
            'train_cfg.val_interval': length,
            **self.options,
            **settings.get('options', {}),
        }
        schedulers = config.param_scheduler
        if isinstance(schedulers, list):  # a single one ends with the training anyway
            last = len(schedulers) - 1
            if schedulers[last][end] == config.train_cfg[f'max_{teacher.unit}s']:
                # Its last part ends with the training.
                options[f'param_scheduler.{last}.{end}'] = length
        if teacher.unit == 'iter':
            options['default_hooks.checkpoint.interval'] = length
        # A text encoder's teacher is a name, and has its weights.
        if isinstance(config.model.get('teacher'), Mapping):
            options['model.teacher.checkpoint'] = str(teacher.checkpoint)
        elif 'teacher_ckpt' in config.model:
            options['model.teacher_ckpt'] = str(teacher.checkpoint)
        folder = self.work_dir / self.name / stage / f'{_slug(row)}-seed{seed}'
        return Run(stage, row, seed, path, options, folder, teacher.unit, length)


@functools.cache
def _read(path: str) -> Config:
    # A plan names the same few configs in dozens of runs.
    return Config.fromfile(path)


def _slug(row: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in row)


def _of(result: Mapping[str, Any], stage: str, row: str) -> bool:
    return result['stage'] == stage and result['row'] == row


def length_of(stage: Mapping[str, Any]) -> int:
    """Epochs or iterations of a stage."""
    return stage['epochs'] if 'epochs' in stage else stage['iterations']


def _scaled(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Options that resize the pictures of all pipelines, if a stage has a size."""
    options: dict[str, Any] = {}
    for loader, step in (('train', 2), ('val', 1), ('test', 1)):
        if 'scale' in stage:
            key = f'{loader}_dataloader.dataset.pipeline.{step}.scale'
            options[key] = tuple(stage['scale'])
    return options
