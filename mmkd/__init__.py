"""mmkd gives every stock MMDetection / MMSegmentation config a teacher.

Importing the package makes two things true, and imports neither mmdet, mmseg
nor transformers:

* every ``mmkd.*`` name resolves in mmengine's root registries, and
  ``mmkd::...`` in the ``_base_`` of a config;
* stock OpenMMLab packages work on current torch (see :mod:`mmkd.compat`).
"""

from . import compat, config_path
from .registry import HOOKS, MODELS

__version__ = '0.1.0'
__all__ = ['HOOKS', 'MODELS', '__version__']

compat.install()
config_path.install()
