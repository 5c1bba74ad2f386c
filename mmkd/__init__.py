"""mmkd gives every stock MMDetection / MMSegmentation config a teacher.

Importing the package makes two things true, and imports neither mmdet, mmseg
nor transformers:

* every ``mmkd.*`` name resolves in mmengine's root registries, and
  ``mmkd::...`` in the ``_base_`` of a config;
* stock OpenMMLab packages work on current torch (see :mod:`mmkd.compat`).
"""

import importlib.util
from typing import Any

from . import compat, config_path
from .registry import DATASETS, HOOKS, MODELS

__version__ = '0.1.0'
__all__ = ['DATASETS', 'HOOKS', 'MODELS', '__version__']

compat.install()
config_path.install()


def __getattr__(name: str) -> Any:
    """Sub-modules and everything registered, imported when asked for."""
    if not name.startswith('_'):
        if importlib.util.find_spec(f'{__name__}.{name}') is not None:
            return importlib.import_module(f'{__name__}.{name}')
        for registry in (MODELS, HOOKS, DATASETS):
            found = registry.own(name)
            if found is not None:
                return found
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
