"""Which ``type`` entries of a config from a file may be built.

Text that is data can still say ``dict(type='os.system', command=...)``: what a
registry does not know, it imports by dotted name and calls, and some host code
passes the name to ``eval``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, TASK_UTILS, WEIGHT_INITIALIZERS, Registry

__all__ = ['require_registered_types']


def require_registered_types(cfg: Any) -> None:
    """Refuse a model config that names more than registered classes.

    A plain name must not be a module's, as a registry would import that; a dotted
    one must belong to a class that its package has registered.

    Args:
        cfg: Nested dicts, lists and tuples; nothing is built.

    Raises:
        ValueError: Naming the first ``type`` that is neither.

    Example:
        >>> require_registered_types(dict(type='GFL', norm_cfg=dict(type='BN')))
        >>> require_registered_types([dict(type='os.system', command='ls')])
        Traceback (most recent call last):
        ValueError: 'os.system' is not the name of a registered class
    """
    for name in _types(cfg):
        if not (_is_registered(name) if '.' in name else _is_plain(name)):
            raise ValueError(f'{name!r} is not the name of a registered class')


def _types(cfg: Any) -> Iterator[str]:
    if isinstance(cfg, Mapping):
        if isinstance(cfg.get('type'), str):
            yield cfg['type']
        for value in cfg.values():
            yield from _types(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from _types(value)


def _is_plain(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is None


def _is_registered(name: str) -> bool:
    package, last = name.split('.')[0], name.split('.')[-1]
    if package in MODULE2PACKAGE and importlib.util.find_spec(package):
        importlib.import_module(f'{package}.registry')
    return any(
        last in (key, getattr(registered, '__name__', None))
        and package in (scope, getattr(registered, '__module__', '').split('.')[0])
        for scope, key, registered in _registered()
    )


def _registered() -> Iterator[tuple[str, str, Any]]:
    """Scope, key and class of everything that models are built of."""
    pending: list[Registry] = [MODELS, TASK_UTILS, WEIGHT_INITIALIZERS]
    while pending:
        registry = pending.pop()
        pending.extend(registry.children.values())
        registry.import_from_location()
        for key, registered in registry.module_dict.items():
            yield registry.scope, key, registered
