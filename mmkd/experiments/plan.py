"""A plan of training runs: rows, seeds and stages, each run one command."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

TEACHER = 'teacher'


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
        epochs: Number of epochs.
    """

    stage: str
    row: str
    seed: int
    config: str
    options: Mapping[str, Any] = field(hash=False)
    work_dir: Path
    epochs: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the run among the results."""
        return self.stage, self.row, self.seed

    @property
    def checkpoint(self) -> Path:
        """The weights after the last epoch."""
        return self.work_dir / f'epoch_{self.epochs}.pth'


class Plan:
    """What ``configs/_experiments_/<name>.py`` asks for.

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
        self.seeds: Sequence[int] = content.seeds
        self.rows: Mapping[str, Any] = content.rows
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
            The baseline, the best rows by mean AP, and those that always run, in
            the order of the plan; empty while an earlier stage is not done.
        """
        count = self.stages[stage].get('best')
        if count is None:
            return list(self.rows)
        names = list(self.stages)
        before = names[names.index(stage) - 1]
        means = {}
        for row in self.rows:
            values = [r.get('AP') for r in results if _of(r, before, row)]
            if len(values) < len(self.seeds):
                return []
            # A run that broke off counts as nothing learned.
            means[row] = statistics.fmean(value or 0.0 for value in values)
        others = [row for row in self.rows if row != self.baseline]
        best = sorted(others, key=lambda row: -means[row])[:count]
        chosen = {self.baseline, *best, *self.stages[stage].get('always', ())}
        return [row for row in self.rows if row in chosen]

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
                runs += [self._run(stage, row, seed, teacher) for row in rows]
        return runs

    def _teacher_run(self, stage: str) -> Run:
        options = _scaled(self.stages[stage].scale)
        folder = self.work_dir / self.name / stage / TEACHER
        epochs = Config.fromfile(self.teacher).train_cfg.max_epochs
        return Run(stage, TEACHER, 0, self.teacher, options, folder, epochs)

    def _run(self, stage: str, row: str, seed: int, teacher: Run) -> Run:
        settings, epochs = self.rows[row], self.stages[stage].epochs
        options = {
            **_scaled(self.stages[stage].scale),
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': epochs,
            'param_scheduler.1.T_max': epochs,
            **settings.get('options', {}),
        }
        model = Config.fromfile(settings.config).model
        if 'teacher' in model:
            options['model.teacher.checkpoint'] = str(teacher.checkpoint)
        elif 'teacher_ckpt' in model:
            options['model.teacher_ckpt'] = str(teacher.checkpoint)
        slug = ''.join(c if c.isalnum() else '-' for c in row)
        folder = self.work_dir / self.name / stage / f'{slug}-seed{seed}'
        return Run(stage, row, seed, settings.config, options, folder, epochs)


def _of(result: Mapping[str, Any], stage: str, row: str) -> bool:
    return result['stage'] == stage and result['row'] == row


def _scaled(scale: Sequence[int]) -> dict[str, Any]:
    """Options that resize the pictures of all pipelines."""
    options: dict[str, Any] = {}
    for loader, step in (('train', 2), ('val', 1), ('test', 1)):
        key = f'{loader}_dataloader.dataset.pipeline.{step}.scale'
        options[key] = tuple(scale)
    return options
