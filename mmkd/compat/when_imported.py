"""Something done around the execution of another package's module."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

Around = Callable[[types.ModuleType], AbstractContextManager]


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, around: Around) -> None:
        self.name = name
        self.around = around

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                with self.around(module):
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


def when_imported(name: str, around: Around) -> None:
    """Run a module inside of a context, whenever it is imported for the first time.

    Args:
        name: Name of the module. It must not have been imported yet.
        around: Makes the context, given the module, empty as it is before.

    Example:
        >>> import tempfile
        >>> from contextlib import contextmanager
        >>> from pathlib import Path
        >>> @contextmanager
        ... def announce(module):
        ...     print('before', hasattr(module, 'this'))
        ...     yield
        ...     print('after', hasattr(module, 'this'))
        >>> folder = tempfile.mkdtemp()
        >>> _ = Path(folder, 'mmkd_example.py').write_text('this = 1')
        >>> when_imported('mmkd_example', announce)
        >>> sys.path.append(folder)
        >>> import mmkd_example
        before False
        after True
    """
    sys.meta_path.insert(0, _Finder(name, around))
