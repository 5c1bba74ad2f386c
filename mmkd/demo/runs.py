"""One training run of the demo, and what is kept of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.cli import build_runner
from mmkd.training import train_config, write_student_config

TEACHER, ALONE, DISTILLED = 'teacher', 'student alone', 'student distilled'

#: What of a config decides what a run gives; a change asks for a new run.
_DECISIVE = (
    'model',
    'train_dataloader',
    'val_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'randomness',
)

#: Called with iterations done, iterations in all, and the newest score (or None).
Progress = Callable[[int, int, 'float | None'], None]


@dataclass(frozen=True)
class RunResult:
    """What one training run gave.

    ``metrics`` are those after the last iteration, the first one is the ``score``;
    ``curve`` holds (iteration, score) of each evaluation; ``seconds`` is the wall time
    of the training iterations, without evaluation; ``gflops`` are multiply-adds of
    one picture / 1e9, as MMEngine counts them.
    """

    name: str
    seed: int
    metrics: Mapping[str, float]
    iterations: int
    seconds: float
    parameters: int
    gflops: float
    curve: tuple[tuple[int, float], ...]
    fingerprint: str

    @property
    def score(self) -> float:
        """The first metric."""
        return next(iter(self.metrics.values()))

    def save(self, path: Path) -> None:
        """Write as json, whole or not at all."""
        draft = path.with_suffix('.tmp')
        draft.write_text(json.dumps(asdict(self), indent=1))
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path) -> RunResult | None:
        """Read what :meth:`save` wrote; None if there is no such file."""
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        curve = tuple((iteration, score) for iteration, score in content.pop('curve'))
        return cls(**content, curve=curve)


class DemoRun:
    """A training run in a folder of its own, done once.

    Args:
        name: What the run is called in tables, such as ``'teacher'``.
        config: Path or name of the config.
        metrics: Name -> key in the log.
        work_dir: Folder of the run.
        seed: Seed of the run.
        options: Overrides of the config by dotted key.
        depends_on: Fingerprint of what the config cannot show, such as the
            training that made the teacher's weights.
    """

    def __init__(
        self,
        name: str,
        config: str,
        metrics: Mapping[str, str],
        work_dir: Path,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        depends_on: str = '',
    ) -> None:
        self.name = name
        self.metrics = metrics
        self.work_dir = work_dir
        self.seed = seed
        self.cfg = train_config(config, options=options, work_dir=str(work_dir))
        self.cfg.randomness = dict(seed=seed)
        content = json.dumps(
            [_without_paths(self.cfg.to_dict()), depends_on],
            sort_keys=True,
            default=str,
        )
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def checkpoint(self) -> Path:
        """The weights at the end of the training."""
        loop = self.cfg.train_cfg
        unit = 'epoch' if 'max_epochs' in loop else 'iter'
        return self.work_dir / f'{unit}_{loop[f"max_{unit}s"]}.pth'

    @property
    def predictions(self) -> Path:
        """The detections of the last evaluation, in COCO's result format.

        Others leave none.
        """
        return self.work_dir / 'predictions.bbox.json'

    @property
    def result(self) -> RunResult | None:
        """What the run gave, None if it is not done as it is configured now."""
        result = RunResult.load(self.work_dir / 'result.json')
        if result is None or result.fingerprint != self.fingerprint:
            return None
        files = [self.checkpoint]
        if self._detects:
            files.append(self.predictions)
        return result if all(file.is_file() for file in files) else None

    @property
    def _detects(self) -> bool:
        return self.cfg.val_evaluator.type == 'CocoMetric'

    def execute(self, progress: Progress) -> RunResult:
        """Train and evaluate, unless that is done.

        What the host libraries print goes to ``log.txt`` in the work directory.
        """
        if self.result is not None:
            return self.result
        self.work_dir.mkdir(parents=True, exist_ok=True)
        recorder = _RecorderHook(progress, self.metrics)
        with _output_to(self.work_dir / 'log.txt'):
            runner = self._build_runner()
            runner.register_hook(recorder, priority='LOWEST')
            runner.train()
            parameters, gflops = model_size(write_student_config(self.cfg))
        result = RunResult(
            name=self.name,
            seed=self.seed,
            metrics=recorder.newest,
            iterations=runner.iter,
            seconds=round(recorder.seconds, 1),
            parameters=parameters,
            gflops=gflops,
            curve=tuple(recorder.curve),
            fingerprint=self.fingerprint,
        )
        result.save(self.work_dir / 'result.json')
        return result

    def _build_runner(self) -> Runner:
        if self._detects:
            self.cfg.val_evaluator.outfile_prefix = str(self.work_dir / 'predictions')
        # A visualizer is found again by its name, and would keep writing into the
        # folder of the run before.
        self.cfg.visualizer.name = str(self.work_dir)
        return build_runner(self.cfg)


def model_size(config: Path) -> tuple[int, float]:
    """Number of parameters, and multiply-adds / 1e9 of one picture, of a config."""
    from mmengine.registry import DATASETS, MODELS, DefaultScope

    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
    if hasattr(model, 'generator'):
        from ..gan.cost import cost_of

        sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
        cost = cost_of(model.generator, sample['inputs']['source'].shape[-2:])
        return cost.parameters, cost.gmacs
    pipeline = cfg.test_dataloader.dataset.pipeline
    resized = [t['scale'] for t in pipeline if t['type'] == 'Resize']
    size = resized[0] if resized else cfg.model.data_preprocessor.size
    with torch.no_grad():
        info = get_model_complexity_info(
            model, input_shape=(3, *size), show_table=False, show_arch=False
        )
    return sum(p.numel() for p in model.parameters()), info['flops'] / 1e9


class _RecorderHook(Hook):
    """Reports progress, and keeps times and metrics."""

    def __init__(self, progress: Progress, metrics: Mapping[str, str]) -> None:
        self.progress = progress
        self.metrics = metrics
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self.newest: dict[str, float] = {}
        self._started: float | None = None

    def before_train_epoch(self, runner: Runner) -> None:
        self._started = time.perf_counter()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._report(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._pause()

    def before_val_epoch(self, runner: Runner) -> None:
        # An iteration-based loop evaluates inside of what it calls an epoch.
        self._is_between = self._started is not None
        self._pause()

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        # CocoMetric gives nothing where a model finds nothing.
        found = metrics or {}
        self.newest = {
            name: round(float(found.get(key, 0)), 4)  # some are numpy's
            for name, key in self.metrics.items()
        }
        self.curve.append((runner.iter, next(iter(self.newest.values()))))
        self._report(runner, runner.iter)
        if self._is_between:
            self._started = time.perf_counter()

    def _pause(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    def _report(self, runner: Runner, done: int) -> None:
        newest = self.curve[-1][1] if self.curve else None
        self.progress(done, runner.max_iters, newest)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what Python code prints, warnings included, to a file."""
    with (
        path.open('w', buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _without_paths(value: Any) -> Any:
    """A config without what says only where things are."""
    if isinstance(value, Mapping):
        return {
            str(key): _without_paths(item)
            for key, item in value.items()
            if key not in ('checkpoint', 'data_root')
        }
    if isinstance(value, (list, tuple)):
        return [_without_paths(item) for item in value]
    return value
