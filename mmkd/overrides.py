"""Overrides of a config: from the command line, and where the data lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .config import is_augmented, is_distilled, is_gan, teacher_options

#: Keys that a distilled model has itself, and NetAug; others are the stock model's.
_OWN_KEYS = {
    'student': {'type', 'student', 'teacher', 'losses', '_delete_', '_scope_'},
    'model': {'type', 'model', 'expand', 'width', 'aug_weight', 'shared_statistics'},
}


def merge_options(cfg: Config, options: Mapping[str, Any]) -> Config:
    """Apply overrides by dotted key, ``--cfg-options``.

    In a distillation config ``model.backbone...`` and whatever else the stock
    config calls ``model.<key>`` reaches the student, ``model.teacher.<key>`` also
    a teacher that is given as a name, and ``data_root`` every path below it. What
    follows ``finetune.`` in the config of a GAN is one of the keys that it has there.

    Args:
        cfg: Config; changed in place.
        options: Dotted key -> value.

    Returns:
        The same config.

    Example:
        >>> cfg = Config(dict(model=dict(type='mmkd.Distill', losses={},
        ...     student=dict(depth=50), teacher='a.py')))
        >>> merge_options(cfg, {'model.depth': 18, 'model.teacher.device': 'cpu'}).model
        ... # doctest: +NORMALIZE_WHITESPACE
        {'type': 'mmkd.Distill', 'losses': {}, 'student': {'depth': 18},
         'teacher': {'config': 'a.py', 'device': 'cpu'}}
    """
    options = dict(options)
    options = {_students(cfg, key): value for key, value in options.items()}
    if is_distilled(cfg):
        teacher = cfg.model.get('teacher')
        if any(key.startswith('model.teacher.') for key in options):
            cfg.model.teacher = teacher_options(teacher)
    root, old = options.get('data_root'), cfg.get('data_root')
    if root and old:
        # Stock configs copy it into every data set and evaluator while they are read.
        _move_all(cfg, old, root)
    if is_gan(cfg):
        _take_finetuning(cfg, options)
    cfg.merge_from_dict(options)
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
        _move_all(cfg, 'data/', root)
    return cfg


def _students(cfg: Config, key: str) -> str:
    prefix, _, rest = key.partition('.')
    name = rest.partition('.')[0]
    if prefix != 'model' or not rest:
        return key
    path, model = 'model', cfg.model
    layers = (('student', is_distilled(cfg)), ('model', is_augmented(cfg)))
    for inner in (inner for inner, has in layers if has):
        if name in _OWN_KEYS[inner] or name in model:
            break
        path, model = f'{path}.{inner}', model[inner]
    return f'{path}.{rest}'


def _take_finetuning(cfg: Config, options: dict[str, Any]) -> None:
    prefix = 'finetune.'
    own = cfg.get('finetune')
    told = dict(own) if isinstance(own, Mapping) else {}
    for key in [key for key in options if key.startswith(prefix)]:
        told[key[len(prefix) :]] = options.pop(key)
        cfg.finetune = told


def _move_all(cfg: Config, old: str, new: str) -> None:
    old, new = old.rstrip('/') + '/', new.rstrip('/') + '/'
    for key in list(cfg):
        cfg[key] = _moved(cfg[key], old, new)


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        if value == old[:-1]:
            return new[:-1]
        return new + value[len(old) :] if value.startswith(old) else value
    if isinstance(value, Mapping):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, old, new) for item in value)
    return value
