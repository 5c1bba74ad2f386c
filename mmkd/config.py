"""Configs: from names to configs, from stock to distilled, and back."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE

from .config_kind import (
    is_augmented,
    is_distilled,
    is_gan,
    is_ours,
    is_transfer,
    model_scope,
    names_mmkd,
    type_name,
)
from .config_path import zoo_file

#: Model types of this project that hold a stock student under `student`.
WRAPPERS = {
    'mmdet': 'mmkd.DistillDetector',
    'mmseg': 'mmkd.DistillSegmentor',
}
#: What a teacher is called that is the student: its average, or its own layers.
OWN_TEACHERS = ('ema', 'self')
#: Hooks that a distilled run has on top of the stock ones.
DEFAULT_HOOKS = dict(
    distiller_state=dict(type='mmkd.DistillerStateHook'),
    checkpoint=dict(type='mmkd.AtomicCheckpointHook'),
)


def load_config(config: str | Path | Config | Mapping[str, Any]) -> Config:
    """Load a config by path or by zoo name.

    Args:
        config: A path, ``'mmdet::...'``, ``'mmseg::...'``, ``'mmkd::...'``, or a
            config (copied).

    Returns:
        The config. For a zoo name of another library ``model_path`` is the URL
        of the weights, where the metafile has one.

    Raises:
        FileNotFoundError: If there is no such config.
        ModuleNotFoundError: If the library of a zoo name is not installed.
        ValueError: If the library of a zoo name is unknown, or the file is broken.

    Example:
        >>> load_config(dict(model=dict(type='GFL'))).model.type
        'GFL'
    """
    if isinstance(config, Config):
        return copy.deepcopy(config)
    if isinstance(config, Mapping):
        return Config(copy.deepcopy(dict(config)))
    name = str(config)
    if '::' not in name:
        if not Path(name).is_file():
            raise FileNotFoundError(f'config {name!r} does not exist')
        return _read(name)
    return _zoo_config(name)


def _read(path: str) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program
        kind = type(error).__name__
        raise ValueError(f'config {path!r} cannot be read: {kind}: {error}') from error


def _zoo_config(name: str) -> Config:
    package = name.partition('::')[0]
    if package not in MODULE2PACKAGE:
        raise ValueError(
            f'{name!r}: the library is not known to mmengine; '
            f'known are {sorted(MODULE2PACKAGE)}'
        )
    # mmengine would download and install it.
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f'{name!r}: {package} is not installed', name=package)
    path, meta = zoo_file(name)
    if not path.is_file():
        raise FileNotFoundError(f'{name!r} is not among the shipped configs')
    cfg = _read(str(path))
    if 'Weights' in meta:
        cfg.model_path = meta['Weights']
    return cfg


def method_losses(method: str, scope: str) -> dict[str, Any]:
    """Losses of a preset, as ``configs/_methods_/<method>.py`` gives them.

    Args:
        method: Name of the preset, such as ``'hint'``.
        scope: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        Log name -> loss config.

    Raises:
        ValueError: If there is no such preset, or none for this library.
    """
    names = method_names()
    if method not in names:
        raise ValueError(f'method must be one of {names} but is {method!r}')
    preset = Config.fromfile(_methods_folder() / f'{method}.py')
    if scope not in preset:
        raise ValueError(f'method {method!r} has no preset for {scope} models')
    return preset[scope].to_dict()


def method_names() -> list[str]:
    """Names of the presets that ``--method`` takes.

    Example:
        >>> 'hint' in method_names()
        True
    """
    return sorted(file.stem for file in _methods_folder().glob('*.py'))


def _methods_folder() -> Path:
    return config_root() / '_methods_'


def config_root() -> Path:
    """Folder of the configs, in a checkout as in an installed wheel."""
    # A link to `configs/` in a checkout, a copy of it in a wheel.
    return Path(__file__).parent / '.mim' / 'configs'


def distill_config(cfg: Config, teacher: Any, losses: Mapping[str, Any]) -> Config:
    """Give a stock config a teacher.

    Args:
        cfg: A stock config; not changed.
        teacher: See :func:`mmkd.teacher.build_teacher`.
        losses: Log name -> loss config.

    Returns:
        The config that trains the same student with the teacher.

    Raises:
        ValueError: If the config is distilled already.

    Example:
        >>> stock = Config(dict(model=dict(type='GFL'), default_scope='mmdet'))
        >>> hint = dict(type='mmkd.FeatureImitationLoss', at='neck')
        >>> cfg = distill_config(stock, 'teacher.pth', dict(loss_hint=hint))
        >>> cfg.model.type, cfg.model.student.type
        ('mmkd.DistillDetector', 'GFL')
    """
    if is_distilled(cfg):
        raise ValueError('the config already names a teacher; change it there')
    cfg = copy.deepcopy(cfg)
    cfg.model = ConfigDict(
        type=WRAPPERS.get(model_scope(cfg), 'mmkd.Distill'),
        student=cfg.model,
        teacher=teacher,
        losses=dict(losses),
    )
    add_import(cfg)
    return cfg


def teacher_options(teacher: Any) -> dict[str, Any]:
    """The long form of a ``teacher`` entry.

    Args:
        teacher: A name or path, or the long form.

    Returns:
        ``dict(config=...)`` or ``dict(checkpoint=...)`` for a string.

    Example:
        >>> teacher_options('mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py')
        {'config': 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'}
        >>> teacher_options('ema')
        {'ema': {}}
    """
    if not isinstance(teacher, str):
        return dict(teacher)
    if teacher in OWN_TEACHERS:
        return {teacher: {}}
    key = 'checkpoint' if teacher.endswith(('.pth', '.pt')) else 'config'
    return {key: teacher}


def own_kind(teacher: Any) -> str | None:
    """Which of :data:`OWN_TEACHERS` a ``teacher`` entry names, if any.

    Example:
        >>> own_kind(dict(ema=dict(momentum=0.01))), own_kind('teacher.pth')
        ('ema', None)
    """
    if not isinstance(teacher, (str, Mapping)):
        return None
    return next((k for k in OWN_TEACHERS if k in teacher_options(teacher)), None)


def add_default_hooks(cfg: Config) -> Config:
    """Add exact resume and atomic checkpoints to ``default_hooks``.

    Types that a config chose itself are kept, but for the stock checkpoint hook and
    the stock log processor; so is ``None``, by which a config switches a hook off.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    for name, hook in DEFAULT_HOOKS.items():
        # Runner's own default; that of the hook's class is never to save.
        absent = ConfigDict(interval=1) if name == 'checkpoint' else ConfigDict()
        entry = hooks.get(name, absent)
        if entry is None:
            if name == 'distiller_state':  # Runner takes None for stock names only
                del hooks[name]
        elif type_name(entry, 'CheckpointHook') == 'CheckpointHook':
            hooks[name] = ConfigDict({**entry, **hook})
    if is_distilled(cfg) or is_augmented(cfg):
        processor = cfg.get('log_processor') or ConfigDict()
        if type_name(processor, 'LogProcessor') == 'LogProcessor':
            cfg.log_processor = {**processor, 'type': 'mmkd.DistillLogProcessor'}
    add_import(cfg)
    return cfg


def student_config(config: str | Path | Config | Mapping[str, Any]) -> Config:
    """The stock config of the student of a distillation config.

    Stock tools and ``init_detector`` / ``init_model`` take it, without the
    teacher's files and without mmkd.

    Args:
        config: A distillation config, its path or name. A stock config is
            returned as it is.

    Returns:
        A config that names nothing of mmkd, unless the student itself is made of
        modules of mmkd.

    Example:
        >>> cfg = Config(dict(model=dict(
        ...     type='mmkd.Distill', student=dict(type='Toy'), teacher='t.py',
        ...     losses=dict()), custom_imports=dict(imports='mmkd')))
        >>> student_config(cfg)
        Config (path: None): {'model': {'type': 'Toy'}}
    """
    cfg = load_config(config)
    if is_distilled(cfg) or is_transfer(cfg):
        _unwrap(cfg, 'student')
    if is_augmented(cfg):
        _unwrap(cfg, 'model')
    if is_gan(cfg):
        kept = ('generator', 'data_preprocessor')
        told = {key: cfg.model[key] for key in kept if key in cfg.model}
        cfg.model = ConfigDict(type='mmkd.Translator', **told)
    hooks = cfg.get('default_hooks', {})
    for name, hook in list(hooks.items()):
        if name == 'checkpoint' and is_ours(hook):
            hook['type'] = 'CheckpointHook'
        elif is_ours(hook):
            del hooks[name]
    if is_ours(cfg.get('log_processor') or {}):
        cfg.log_processor.type = 'LogProcessor'
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not is_ours(hook)]
    if not names_mmkd(cfg.to_dict()):
        _drop_import(cfg)
    return cfg


def _unwrap(cfg: Config, key: str) -> None:
    """Put the model in place of what extends it."""
    preprocessor = cfg.model.get('data_preprocessor')
    cfg.model = cfg.model[key]
    # `init_model` does not hand over the top-level one, as the Runner does.
    preprocessor = preprocessor or cfg.get('data_preprocessor')
    if preprocessor and not cfg.model.get('data_preprocessor'):
        cfg.model.data_preprocessor = preprocessor


def without_run(cfg: Config) -> Config:
    """Forget what belongs to one run on one machine, for a config that is handed on.

    Args:
        cfg: Config; changed in place.

    Returns:
        The same config.

    Example:
        >>> without_run(Config(dict(model={}, work_dir='/home/me', resume=True)))
        Config (path: None): {'model': {}, 'resume': False}
    """
    neutral = dict(load_from=None, resume=False, launcher='none')
    for key in neutral.keys() & cfg.keys():
        cfg[key] = neutral[key]
    cfg.pop('work_dir', None)
    return cfg


def _imports(cfg: Config) -> list[str]:
    modules = (cfg.get('custom_imports') or {}).get('imports') or []
    return [modules] if isinstance(modules, str) else list(modules)


def add_import(cfg: Config) -> None:
    """Let a config import mmkd, beside what it imports."""
    # What the Runner writes into the work directory is for stock tools, too.
    modules = _imports(cfg)
    if 'mmkd' not in modules:
        imports = cfg.setdefault('custom_imports', ConfigDict())
        imports['imports'] = [*modules, 'mmkd']


def _drop_import(cfg: Config) -> None:
    modules = _imports(cfg)
    kept = [m for m in modules if m != 'mmkd' and not m.startswith('mmkd.')]
    if kept:
        cfg.custom_imports['imports'] = kept
    elif modules:
        cfg.pop('custom_imports')
