"""From the arguments of ``tools/train.py`` to a config that the Runner takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .config import (
    add_default_hooks,
    distill_config,
    is_distilled,
    load_config,
    method_losses,
    model_scope,
    student_config,
    use_data_root,
)

#: Keys of a distilled model; other `model.*` overrides mean the stock student.
_WRAPPER_KEYS = ('model.losses.', 'model.teacher', 'model.student.')


def train_config(
    config: str,
    teacher: Any = None,
    method: str | None = None,
    distill: bool = True,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
) -> Config:
    """The config of a training run.

    Args:
        config: Path or zoo name of a stock or a distillation config.
        teacher: Given to a stock config, or in place of the config's own.
        method: Preset of losses, see ``configs/_methods_``.
        distill: Whether the teacher is used; without it the run is the plain
            baseline of the same config.
        options: Overrides by dotted key, ``--cfg-options``.
        work_dir: Where the run is kept; ``work_dirs/<name>`` if not given.

    Returns:
        The config, exact resume and atomic checkpoints included.

    Raises:
        ValueError: If the arguments contradict each other.
        FileNotFoundError: If there is no such config.
    """
    cfg = load_config(config)
    options = dict(options or {})
    name = Path(default_work_dir(config)).name
    if distill and (teacher or method):
        if not is_distilled(cfg):
            # The user thinks of the config that was named, which is the stock one.
            early = {k: v for k, v in options.items() if not k.startswith(_WRAPPER_KEYS)}
            cfg.merge_from_dict(early)
            options = {k: v for k, v in options.items() if k not in early}
            name = f'{name}_{method}'
        cfg = _with_teacher(cfg, teacher, method)
    cfg.merge_from_dict(options)
    if not distill:
        cfg = student_config(cfg)
        name = f'{name}_no-distill'
    add_default_hooks(cfg)
    use_data_root(cfg, os.environ.get('MMKD_DATA'))
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / name)
    return cfg


def default_work_dir(config: str) -> str:
    """Folder of a run that names none.

    Example:
        >>> default_work_dir('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
        'work_dirs/gfl_r50_fpn_1x_coco'
    """
    return str(Path('work_dirs') / Path(config.partition('::')[2] or config).stem)


def _with_teacher(cfg: Config, teacher: Any, method: str | None) -> Config:
    losses = method_losses(method, model_scope(cfg)) if method else None
    if is_distilled(cfg):
        if teacher:
            cfg.model.teacher = teacher
        if losses is not None:
            cfg.model.losses = losses
        return cfg
    if not teacher:
        raise ValueError('--method needs --teacher: the config names no teacher')
    if losses is None:
        raise ValueError('--teacher needs --method: the config names no losses')
    return distill_config(cfg, teacher, losses)


def write_student_config(cfg: Config) -> Path:
    """Write ``student_config.py`` into the work directory.

    It is what stock tools use on the checkpoints of the run.

    Args:
        cfg: Config of the run.

    Returns:
        The file.
    """
    path = Path(cfg.work_dir) / 'student_config.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    student_config(cfg).dump(path)
    return path
