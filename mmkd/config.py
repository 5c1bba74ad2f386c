"""Configs: from names to configs, from stock to distilled, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

#: Model types of this project that hold a stock student under `student`.
WRAPPERS = {
    'mmdet': 'mmkd.DistillDetector',
    'mmseg': 'mmkd.DistillSegmentor',
}
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
        ValueError: If the library of a zoo name is unknown.
    """
    if isinstance(config, Config):
        return copy.deepcopy(config)
    if isinstance(config, Mapping):
        return Config(copy.deepcopy(dict(config)))
    name = str(config)
    if '::' not in name:
        if not Path(name).is_file():
            raise FileNotFoundError(f'config {name!r} does not exist')
        return Config.fromfile(name)
    try:
        return get_config(name, pretrained=True)
    except AssertionError as error:
        if 'Weights' in str(error):  # in the metafile, but without weights
            return get_config(name)
        raise ValueError(f'{name!r}: the library is not known to mmengine') from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{name!r} is not among the shipped configs') from error


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
    folder = config_root() / '_methods_'
    path = folder / f'{method}.py'
    names = sorted(file.stem for file in folder.glob('*.py'))
    if method not in names:
        raise ValueError(f'method must be one of {names} but is {method!r}')
    preset = Config.fromfile(path)
    if scope not in preset:
        raise ValueError(f'method {method!r} has no preset for {scope} models')
    return preset[scope].to_dict()


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
    return cfg


def add_default_hooks(cfg: Config) -> Config:
    """Add exact resume and atomic checkpoints to ``default_hooks``.

    Types that a config chose itself are kept, but for the stock checkpoint hook.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    for name, hook in DEFAULT_HOOKS.items():
        entry = hooks.get(name) or ConfigDict()
        if entry.get('type', 'CheckpointHook') == 'CheckpointHook':
            hooks[name] = ConfigDict({**entry, **hook})
    return cfg


def use_data_root(cfg: Config, root: str | None) -> Config:
    """Look for the data sets below another folder than ``data/``.

    Args:
        cfg: Config; changed in place.
        root: Folder that holds what configs name ``data/...``; the environment
            variable ``MMKD_DATA`` in the tools. ``None`` changes nothing.

    Returns:
        The same config.

    Example:
        >>> cfg = Config(dict(data_root='data/bccd/', model=dict()))
        >>> use_data_root(cfg, '/big/disk').data_root
        '/big/disk/bccd/'
    """
    if root:
        for key in list(cfg):
            cfg[key] = _moved(cfg[key], root)
    return cfg


def _moved(value: Any, root: str) -> Any:
    if isinstance(value, str) and value.startswith('data/'):
        return str(Path(root) / value[len('data/') :]) + '/' * value.endswith('/')
    if isinstance(value, Mapping):
        return {key: _moved(item, root) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, root) for item in value)
    return value


def is_distilled(cfg: Config) -> bool:
    """Whether the model of a config is a student with a teacher."""
    return 'student' in cfg.model and str(cfg.model.type).startswith('mmkd.')


def model_scope(cfg: Config) -> str:
    """Registry scope that the model of a config belongs to."""
    model = cfg.model.student if is_distilled(cfg) else cfg.model
    return model.get('_scope_') or cfg.get('default_scope') or 'mmengine'


def student_config(config: str | Path | Config | Mapping[str, Any]) -> Config:
    """The stock config of the student of a distillation config.

    Stock tools and ``init_detector`` / ``init_model`` take it, without the
    teacher's files and without mmkd.

    Args:
        config: A distillation config, its path or name. A stock config is
            returned as it is.

    Returns:
        A config that names nothing of mmkd.

    Example:
        >>> cfg = Config(dict(model=dict(
        ...     type='mmkd.Distill', student=dict(type='Toy'), teacher='t.py',
        ...     losses=dict()), custom_imports=dict(imports='mmkd')))
        >>> student_config(cfg)
        Config (path: None): {'model': {'type': 'Toy'}}
    """
    cfg = load_config(config)
    if is_distilled(cfg):
        preprocessor = cfg.model.get('data_preprocessor')
        cfg.model = cfg.model.student
        if preprocessor and not cfg.model.get('data_preprocessor'):
            cfg.model.data_preprocessor = preprocessor
    _drop_imports(cfg)
    hooks = cfg.get('default_hooks', {})
    for name, hook in list(hooks.items()):
        if name == 'checkpoint' and _is_ours(hook):
            hook['type'] = 'CheckpointHook'
        elif _is_ours(hook):
            del hooks[name]
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not _is_ours(hook)]
    return cfg


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, Mapping) and str(entry.get('type', '')).startswith('mmkd.')


def _drop_imports(cfg: Config) -> None:
    imports = cfg.get('custom_imports')
    if not imports:
        return
    modules = imports.get('imports') or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    kept = [m for m in modules if m != 'mmkd' and not m.startswith('mmkd.')]
    if kept:
        cfg.custom_imports['imports'] = kept
    else:
        del cfg['custom_imports']
