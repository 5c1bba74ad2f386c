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

#: Called with iterations done, iterations in all, and the newest AP (or None).
Progress = Callable[[int, int, 'float | None'], None]


@dataclass(frozen=True)
class RunResult:
    """What one training run gave.

    ``ap`` and ``ap50`` are COCO's, in [0, 1], after the last iteration; ``curve``
    holds (iteration, ap) of each evaluation; ``seconds`` is the wall time of the
    training iterations, without evaluation; ``gflops`` are multiply-adds of one
    picture / 1e9, as MMDetection counts them.
    """

    name: str
    seed: int
    ap: float
    ap50: float
    iterations: int
    seconds: float
    parameters: int
    gflops: float
    curve: tuple[tuple[int, float], ...]
    fingerprint: str

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
        curve = tuple((iteration, ap) for iteration, ap in content.pop('curve'))
        return cls(**content, curve=curve)


class DemoRun:
    """A training run in a folder of its own, done once.

    Args:
        name: What the run is called in tables, such as ``'teacher'``.
        config: Path or name of the config.
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
        work_dir: Path,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        depends_on: str = '',
    ) -> None:
        self.name = name
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
        """The weights after the last epoch."""
        return self.work_dir / f'epoch_{self.cfg.train_cfg.max_epochs}.pth'

    @property
    def predictions(self) -> Path:
        """The detections of the last evaluation, in COCO's result format."""
        return self.work_dir / 'predictions.bbox.json'

    @property
    def result(self) -> RunResult | None:
        """What the run gave, None if it is not done as it is configured now."""
        result = RunResult.load(self.work_dir / 'result.json')
        if result is None or result.fingerprint != self.fingerprint:
            return None
        files = (self.checkpoint, self.predictions)
        return result if all(file.is_file() for file in files) else None

    def execute(self, progress: Progress) -> RunResult:
        """Train and evaluate, unless that is done.

        What the host libraries print goes to ``log.txt`` in the work directory.
        """
        if self.result is not None:
            return self.result
        self.work_dir.mkdir(parents=True, exist_ok=True)
        recorder = _RecorderHook(progress)
        with _output_to(self.work_dir / 'log.txt'):
            runner = self._build_runner()
            runner.register_hook(recorder, priority='LOWEST')
            runner.train()
            parameters, gflops = model_size(write_student_config(self.cfg))
        result = RunResult(
            name=self.name,
            seed=self.seed,
            ap=recorder.ap,
            ap50=recorder.ap50,
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
        self.cfg.val_evaluator.outfile_prefix = str(self.work_dir / 'predictions')
        # A visualizer is found again by its name, and would keep writing into the
        # folder of the run before.
        self.cfg.visualizer.name = str(self.work_dir)
        return build_runner(self.cfg)


def model_size(config: Path) -> tuple[int, float]:
    """Number of parameters, and multiply-adds / 1e9 of one picture, of a config."""
    from mmdet.registry import MODELS

    cfg = Config.fromfile(config)
    (resize,) = (t for t in cfg.test_pipeline if t['type'] == 'Resize')
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        info = get_model_complexity_info(
            model, input_shape=(3, *resize['scale']), show_table=False, show_arch=False
        )
    return sum(p.numel() for p in model.parameters()), info['flops'] / 1e9


class _RecorderHook(Hook):
    """Reports progress, and keeps times and AP."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self.ap = self.ap50 = 0.0
        self._started = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        self._started = time.perf_counter()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._report(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self.seconds += time.perf_counter() - self._started

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        # CocoMetric gives nothing where a model finds nothing.
        metrics = metrics or {}
        self.ap = metrics.get('coco/bbox_mAP', 0.0)
        self.ap50 = metrics.get('coco/bbox_mAP_50', 0.0)
        self.curve.append((runner.iter, self.ap))
        self._report(runner, runner.iter)

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
