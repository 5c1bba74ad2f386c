"""What a work directory tells of its run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..compat.config_text import parse_config_text
from ..config import is_distilled, load_config, model_scope
from ..experiments.curves import curves_of
from ..experiments.results import scalar_logs

#: What the column of the teacher is called.
TEACHER = 'teacher'

Points = list[tuple[int, float]]

#: Logged with an evaluation, but no metric.
_NO_METRIC = {'data_time', 'time', 'step', 'epoch', 'iter', 'memory'}
#: Lines of the log's environment that fill a screen and say little.
_LONG = ('PyTorch compiling details', 'mp_cfg', 'dist_cfg')


@dataclass
class Run:
    """A run as its work directory shows it.

    Args:
        work_dir: The directory.
        name: What the run is called in the report.
        cfg: Its config.
        config_file: Where that was read.
        curves: Logged key -> pairs of step and value.
        final: Metrics of the last evaluation; of none, nothing.
        final_step: Epoch or iteration of that evaluation.
        checkpoint: The newest one; ``None`` if there is none.
        environment: What the newest log says of machine and versions.
        notes: What could not be had of this run, in sentences.
    """

    work_dir: Path
    name: str
    cfg: Config
    config_file: Path
    curves: dict[str, Points]
    final: dict[str, float]
    final_step: int | None
    checkpoint: Path | None
    environment: dict[str, str]
    metrics: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    @property
    def is_distilled(self) -> bool:
        """Whether it had a teacher."""
        return is_distilled(self.cfg)

    @property
    def scope(self) -> str:
        """``'mmdet'``, ``'mmseg'`` or another library."""
        return model_scope(self.cfg)

    @property
    def terms(self) -> list[str]:
        """Log names of its distillation losses."""
        losses = self.cfg.model.losses if self.is_distilled else {}
        return [name for name, loss in losses.items() if loss]

    @property
    def seed(self) -> int | None:
        """Of its random numbers, if its config says."""
        return (self.cfg.get('randomness') or {}).get('seed')

    @property
    def setting(self) -> str:
        """Its config without what differs between repetitions of it."""
        cfg = self.cfg.to_dict()
        for key in ('work_dir', 'randomness', 'resume', 'launcher'):
            cfg.pop(key, None)
        return json.dumps(cfg, sort_keys=True, default=str)

    @property
    def step_unit(self) -> str:
        """What the steps of its evaluations count."""
        loop = self.cfg.get('train_cfg') or {}
        is_by_epoch = loop.get('by_epoch') or 'Epoch' in str(loop.get('type', ''))
        return 'epoch' if is_by_epoch else 'iteration'


def read_runs(work_dirs: Sequence[Path]) -> list[Run]:
    """Read work directories.

    Args:
        work_dirs: As given to ``tools/train.py --work-dir``.

    Returns:
        A run for each, with names that differ.

    Raises:
        FileNotFoundError: If one is no folder, or has no log or no config.
        ValueError: If one is named twice, or their models are of different tasks.
    """
    folders = [Path(folder) for folder in work_dirs]
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved):
        if resolved.count(path) > 1:
            raise ValueError(f'work directory {folder} is named twice')
    runs = [
        read_run(folder, name)
        for folder, name in zip(folders, distinct_names(resolved))
    ]
    scopes = {run.scope: run for run in runs}
    if len(scopes) > 1:
        named = ', '.join(f'{run.name} of {scope}' for scope, run in scopes.items())
        raise ValueError(f'the runs must be of one library but are {named}')
    return runs


def read_run(work_dir: Path, name: str | None = None) -> Run:
    """Read one work directory; see :func:`read_runs`."""
    if not work_dir.is_dir():
        raise FileNotFoundError(f'work directory {work_dir} is no folder')
    curves = curves_of(work_dir)
    cfg, config_file = _config(work_dir)
    evaluations = [line for line in _lines(work_dir) if 'iter' not in line]
    last: dict[str, Any] = evaluations[-1] if evaluations else {}
    run = Run(
        work_dir=work_dir,
        name=name or work_dir.resolve().name,
        cfg=cfg,
        config_file=config_file,
        curves=curves,
        final=_metrics(last),
        final_step=last.get('step'),
        checkpoint=newest_checkpoint(work_dir),
        environment=logged_environment(work_dir),
        metrics=frozenset(k for line in evaluations for k in line if _is_metric(k)),
    )
    if run.checkpoint is None:
        run.notes.append(
            'has no checkpoint (*.pth), so that only its logs are in this report'
        )
    return run


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell all of them apart.

    Example:
        >>> distinct_names([Path('/a/ld'), Path('/a/alone')])
        ['ld', 'alone']
        >>> distinct_names([Path('/a/0/ld'), Path('/a/1/ld')])
        ['0/ld', '1/ld']
    """
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ['/'.join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    # The column of the teacher of the runs is called so.
    return [f'{name} (run)' if name == TEACHER else name for name in names]


def newest_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that a run wrote last; the folder may have been moved."""
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        named = work_dir / Path(pointer.read_text().strip()).name
        if named.is_file():
            return named
    found = [
        (int(match[1]), path)
        for path in work_dir.glob('*.pth')
        if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)', path.stem))
    ]
    return max(found)[1] if found else None


def logged_environment(work_dir: Path) -> dict[str, str]:
    """What MMEngine wrote about machine and versions at the last start.

    Args:
        work_dir: The work directory.

    Returns:
        Name -> value, without what fills a screen; nothing if there is no log.
    """
    logs = sorted(work_dir.glob('*/*.log'))
    if not logs:
        return {}
    text = logs[-1].read_text(errors='replace')[:20000]
    _, found, text = text.partition('System environment:')
    if not found:
        return {}
    lines = re.findall(r'^    (\S[^:\n]*): *(.*)$', text.split('Config:')[0], re.M)
    return {k: v.strip() for k, v in lines if k not in _LONG and v.strip()}


def _config(work_dir: Path) -> tuple[Config, Path]:
    """The config of the newest start: data where it can be read as such."""
    by_time = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    written = [path for path in by_time if path.name != 'student_config.py']
    files = [*written, *sorted(work_dir.glob('*/vis_data/config.py'))]
    if not files:
        raise FileNotFoundError(
            f'{work_dir} holds no config (*.py) of a run; give a work directory'
        )
    path = files[-1]
    try:
        cfg = Config(parse_config_text(path.read_text()))
    except ValueError:  # more than literals: it is read as tools/train.py does
        cfg = load_config(path)
    if 'model' not in cfg:
        raise ValueError(f'config {path} has no model')
    return cfg, path


def _lines(work_dir: Path) -> Iterator[dict[str, Any]]:
    for log in scalar_logs(work_dir):
        for line in log.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the last one may be half written
                yield json.loads(line)


def _metrics(line: dict[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in line.items()
        # COCO says -1 where there are no such objects.
        if _is_metric(key) and isinstance(value, (int, float)) and value != -1
    }


def _is_metric(key: str) -> bool:
    return key not in _NO_METRIC
