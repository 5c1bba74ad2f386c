"""mmkd gives every stock MMDetection / MMSegmentation config a teacher.

Importing the package makes two things true, and imports neither mmdet, mmseg
nor transformers:

* every ``mmkd.*`` name resolves in mmengine's root registries, and
  ``mmkd::...`` in the ``_base_`` of a config;
* stock OpenMMLab packages work on current torch (see :mod:`mmkd.compat`).
"""

from mmengine.config.utils import MODULE2PACKAGE

from . import compat
from .registry import HOOKS, MODELS

__version__ = '0.1.0'
__all__ = ['HOOKS', 'MODELS', '__version__']

compat.install()
# mmengine knows the packages whose configs `package::path` may name by this
# table alone.
MODULE2PACKAGE.setdefault('mmkd', 'mmkd')
