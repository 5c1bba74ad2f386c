"""What a config is: distilled, augmented, of which library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

_GANS = ('mmkd.Pix2Pix', 'mmkd.CycleGAN', 'mmkd.GANCompression')


def is_distilled(cfg: Config) -> bool:
    """Whether the model of a config is a student with a teacher and losses."""
    named = 'student' in cfg.model and str(cfg.model.type).startswith('mmkd.')
    return named and not is_transfer(cfg)


def is_transfer(cfg: Config) -> bool:
    """Whether the model of a config is a text encoder that learns layer by layer."""
    return type_name(cfg.get('model') or {}) == 'mmkd.MobileBertTransfer'


def is_augmented(cfg: Config) -> bool:
    """Whether the model of a config, or its student, is trained by NetAug."""
    model = cfg.get('model') or {}
    model = model.get('student', model) if is_distilled(cfg) else model
    return type_name(model) == 'mmkd.NetAug'


def is_gan(cfg: Config) -> bool:
    """Whether the model of a config is a generator with what it is trained by."""
    return type_name(cfg.get('model') or {}) in _GANS


def refuse_gan(cfg: Config, tool: str) -> None:
    """Insist that a config is of no GAN.

    Args:
        cfg: The config.
        tool: What is for students with a distiller alone.

    Raises:
        ValueError: If it is of one.
    """
    if is_gan(cfg):
        raise ValueError(
            f'{tool} is for students with a distiller; for a GAN there are '
            'tools/train.py, which tells what is wrong with it when it is built and at '
            'its first step, tools/gan_search.py and tools/gan_compress.py'
        )


def model_scope(cfg: Config) -> str:
    """Registry scope that the model of a config belongs to."""
    model = cfg.model.student if is_distilled(cfg) else cfg.model
    model = model.model if is_augmented(cfg) else model
    return model.get('_scope_') or cfg.get('default_scope') or 'mmengine'


def type_name(entry: Mapping[str, Any], default: str = '') -> str:
    """Name of a type, which new-style configs give as a class."""
    kind = entry.get('type', default)
    if not isinstance(kind, type):
        return str(kind)
    ours = kind.__module__.partition('.')[0] == 'mmkd'
    return f'mmkd.{kind.__name__}' if ours else kind.__name__


def is_ours(entry: Any) -> bool:
    """Whether a part of a config has a type of mmkd."""
    return isinstance(entry, Mapping) and type_name(entry).startswith('mmkd.')


def names_mmkd(value: Any) -> bool:
    """Whether a config, or a part of one, has a type of mmkd in it."""
    if isinstance(value, Mapping):
        return is_ours(value) or any(map(names_mmkd, value.values()))
    return isinstance(value, (list, tuple)) and any(map(names_mmkd, value))
