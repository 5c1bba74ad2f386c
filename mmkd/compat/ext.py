"""A stand-in for ``mmcv._ext``, mmcv's compiled operators.

PyPI offers mmcv with operators as source only, and ``mmcv-lite`` without them;
stock MMDetection and MMSegmentation import ``mmcv.ops``, which loads
``mmcv._ext`` and fails without it. :func:`install_ops` makes that import
succeed, on torchvision's and torch's operators.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .ops import OPS

_NAME = 'mmcv._ext'
_INSTALL_URL = 'https://mmcv.readthedocs.io/en/latest/get_started/installation.html'


class OpNotAvailableError(NotImplementedError):
    """An mmcv operator was called that mmkd has no fallback for."""


def _unavailable(name: str) -> Callable[..., NoReturn]:
    """A function that raises :class:`OpNotAvailableError` when it is called."""

    def op(*args: Any, **kwargs: Any) -> NoReturn:
        raise OpNotAvailableError(
            f'the mmcv operator {name!r} needs the compiled extension mmcv._ext, '
            'which this installation of mmcv does not have, and mmkd provides no '
            'fallback for it; install the full mmcv >= 2.1 built for your torch '
            f'and CUDA (pip uninstall mmcv-lite, then see {_INSTALL_URL})'
        )

    op.__name__ = op.__qualname__ = name
    return op


class _OpsModule(types.ModuleType):
    """Module whose operators are imported when they are first asked for."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Private names are asked for by the import system, pickle or a
        # debugger, which must see that they are absent.
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        if name in OPS:
            module = importlib.import_module(f'{__package__}.ops.{OPS[name]}')
            op = getattr(module, name)
        else:
            op = _unavailable(name)
        setattr(self, name, op)
        return op

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *OPS})


class _ExtFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` where no other finder does.

    It stands last in ``sys.meta_path``, so that a real extension is found first
    and nothing of a full mmcv is replaced, and nothing is imported until mmcv
    itself asks: testing for the extension would import mmcv.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _NAME:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin='mmkd.compat')

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _OpsModule(spec.name, 'Fallback operators provided by mmkd.')

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run: the operators are looked up lazily."""


def install_ops() -> None:
    """Provide ``mmcv._ext`` to processes whose mmcv comes without it.

    Safe to call again, and without any mmcv installed. Where mmcv has its
    compiled extension, that one is used and this has no effect.

    Example:
        >>> install_ops()
        >>> sum(isinstance(f, _ExtFinder) for f in sys.meta_path)
        1
    """
    if not any(isinstance(finder, _ExtFinder) for finder in sys.meta_path):
        sys.meta_path.append(_ExtFinder())
