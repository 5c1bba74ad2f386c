"""From the arguments of the tools to a config that the Runner takes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner import find_latest_checkpoint

from .compat.checkpoint import TRUST_VARIABLE, load_file
from .config import (
    add_default_hooks,
    distill_config,
    is_distilled,
    is_gan,
    is_transfer,
    load_config,
    method_losses,
    model_scope,
    student_config,
    teacher_options,
    without_run,
)
from .config_kind import type_name
from .fileio import replacing
from .overrides import merge_options, use_data_root


def train_config(
    config: str,
    teacher: Any = None,
    method: str | None = None,
    distill: bool = True,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    cache: str | None = None,
) -> Config:
    """The config of a training run.

    Args:
        config: Path or zoo name of a stock or a distillation config.
        teacher: Given to a stock config, or in place of the config's own.
        method: Preset of losses, see ``configs/_methods_``.
        distill: Whether the teacher is used; without it the run is the plain
            baseline of what the other arguments describe.
        options: Overrides by dotted key, see
            :func:`mmkd.overrides.merge_options`.
        work_dir: Where the run is kept; ``work_dirs/<name>`` if not given.
        cache: Teacher cache that stands for the teacher, see ``docs/cache.md``.

    Returns:
        The config, exact resume and atomic checkpoints included.

    Raises:
        ValueError: If the arguments contradict each other.
        FileNotFoundError: If there is no such config.
    """
    cfg = _model_config(config)
    name = Path(default_work_dir(config)).name
    if teacher or method:
        if distill and not is_distilled(cfg):
            name = f'{name}_{method}'
        cfg = _with_teacher(cfg, teacher, method)
    merge_options(cfg, options or {})
    if cache and distill:
        _use_cache(cfg, cache)
    if not distill:
        cfg = _without_teacher(cfg)
        name = f'{name}_no-distill'
    add_default_hooks(cfg)
    if is_transfer(cfg):
        _add_transfer_hook(cfg)
    if is_gan(cfg):  # its networks take their steps in turn
        wrapper = ConfigDict(type='MMSeparateDistributedDataParallel')
        cfg.setdefault('model_wrapper_cfg', wrapper)
    use_data_root(cfg, os.environ.get('MMKD_DATA'))
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / name)
    return cfg


def evaluation_config(
    config: str,
    checkpoint: str,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
) -> Config:
    """The config of an evaluation; of a distillation config the student's alone.

    Args:
        config: Path or zoo name of a stock or a distillation config.
        checkpoint: File or URL.
        options: Overrides by dotted key, as for :func:`train_config`.
        work_dir: Where logs go; ``work_dirs/<name>`` if not given.

    Returns:
        A stock config.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the config is that of a text encoder.
    """
    cfg = _model_config(config)
    if is_transfer(cfg):
        raise ValueError(
            'a text encoder has no test of its own: tools/check.py CONFIG --checkpoint '
            'CHECKPOINT compares it with its teacher'
        )
    cfg = student_config(merge_options(cfg, options or {}))
    use_data_root(cfg, os.environ.get('MMKD_DATA'))
    cfg.work_dir = work_dir or cfg.get('work_dir') or default_work_dir(config)
    cfg.load_from, cfg.resume = _existing(checkpoint), False
    return cfg


def _without_teacher(cfg: Config) -> Config:
    if is_transfer(cfg):  # then it guesses masked words
        of_words = ('type', 'student', 'data_preprocessor')
        told = {key: value for key, value in cfg.model.items() if key in of_words}
        return Config(dict(cfg, model=told))
    return plain_gan(cfg) if is_gan(cfg) else student_config(cfg)


def _add_transfer_hook(cfg: Config) -> None:
    """Add what tells a transfer its iteration, where the user's own hooks lack it."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(type_name(hook) == 'mmkd.TransferHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, ConfigDict(type='mmkd.TransferHook')]


def plain_gan(cfg: Config) -> Config:
    """What trains the generator of a GAN without a teacher.

    Args:
        cfg: Config of a GAN; not changed.

    Returns:
        Pix2pix with the student's generator, and with a discriminator as the teacher's;
        what has no teacher as it is.

    Raises:
        ValueError: If the student learns without pairs.

    Example:
        >>> model = dict(type='mmkd.GANCompression', generator=dict(type='G'),
        ...              teacher=dict(generator=dict(type='T'), checkpoint='t.pth'))
        >>> plain_gan(Config(dict(model=model))).model
        {'type': 'mmkd.Pix2Pix', 'generator': {'type': 'G'}}
    """
    cfg = copy.deepcopy(cfg)
    model = cfg.model
    if type_name(model) != 'mmkd.GANCompression':
        return cfg
    if not model.get('paired', True):
        raise ValueError(
            '--no-distill needs pairs of pictures: without them and without a teacher '
            'a generator is trained by mmkd.CycleGAN, in a config of its own'
        )
    of_distillation = ('teacher', 'paired', 'lambda_distill', 'taps', 'inherit')
    told = {key: value for key, value in model.items() if key not in of_distillation}
    if not told.get('discriminator') and model.teacher.get('config'):
        theirs = load_config(model.teacher.config).model.get('discriminator')
        told.update(discriminator=theirs)
    cfg.model = ConfigDict({**told, 'type': 'mmkd.Pix2Pix'})
    return cfg


def default_work_dir(config: str) -> str:
    """Folder of a run that names none.

    Example:
        >>> default_work_dir('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
        'work_dirs/gfl_r50_fpn_1x_coco'
    """
    return str(Path('work_dirs') / Path(config.partition('::')[2] or config).stem)


def resume_from(cfg: Config, checkpoint: str) -> Config:
    """Let a run continue an interrupted one.

    Args:
        cfg: Config of the run; changed.
        checkpoint: File, or ``'auto'`` for the newest of the work directory; where
            that has none yet the run starts from the beginning.

    Returns:
        The same config.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds weights and no state of a run.
    """
    if checkpoint == 'auto':
        found = find_latest_checkpoint(cfg.work_dir)
        if found is None:  # then what the config starts from still counts
            return cfg
        checkpoint = found
    cfg.load_from, cfg.resume = _existing(checkpoint), True
    if '://' not in checkpoint:
        # Now, and not after minutes of building data sets.
        trust = os.environ.get(TRUST_VARIABLE) == '1'
        contents = load_file(cfg.load_from, trust=trust)
        if not isinstance(contents, Mapping) or 'iter' not in contents.get('meta', {}):
            raise ValueError(f'{checkpoint} is no checkpoint of a run to continue')
    return cfg


def use_amp(cfg: Config) -> Config:
    """Train in mixed precision.

    Args:
        cfg: Config of the run; changed.

    Returns:
        The same config.

    Raises:
        ValueError: If the optimizer wrapper or this machine cannot.
    """
    whole: Any = cfg.optim_wrapper
    # A GAN has one for the generator and one for the discriminator.
    parts: list[Any] = [
        p for p in whole.values() if isinstance(p, Mapping) and 'optimizer' in p
    ]
    wrappers = parts or [whole]
    for wrapper in wrappers:
        kind = wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ValueError(
                f'--amp needs an optim_wrapper of type OptimWrapper, not {kind}'
            )
    if get_device() in ('cpu', 'mps'):
        raise ValueError(f'--amp needs a GPU, which this machine lacks: {get_device()}')
    for wrapper in wrappers:
        wrapper['type'] = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    return cfg


def use_auto_scale_lr(cfg: Config) -> Config:
    """Scale the learning rate with the batch size over all GPUs.

    Args:
        cfg: Config of the run; changed.

    Returns:
        The same config.

    Raises:
        ValueError: If the config does not say what its rate is meant for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size, which is not set'
        )
    cfg.auto_scale_lr.enable = True
    return cfg


def write_student_config(cfg: Config) -> Path:
    """Write ``student_config.py`` into the work directory.

    It is what stock tools use on the checkpoints of the run.

    Args:
        cfg: Config of the run.

    Returns:
        The file.
    """
    path = Path(cfg.work_dir) / 'student_config.py'
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(without_run(student_config(cfg)).pretty_text)
    return path


def _model_config(config: str) -> Config:
    cfg = load_config(config)
    if 'model' not in cfg:
        raise ValueError(f'config {config!r} has no model')
    # The zoo's weights are not those of the run, which is a config of its own.
    cfg.pop('model_path', None)
    return cfg


def _existing(checkpoint: str) -> str:
    if '://' in checkpoint:
        return checkpoint
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {checkpoint!r} does not exist')
    return str(path)


def _use_cache(cfg: Config, cache: str) -> None:
    if not is_distilled(cfg):
        raise ValueError(
            '--cache needs a distillation config, or --method and --teacher: the '
            'config names no losses'
        )
    cfg.model.teacher = dict(teacher_options(cfg.model.teacher), cache=cache)


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
