"""An unpickler that builds data and calls nothing else.

``torch.load`` takes a module with ``Unpickler`` and ``load`` as its
``pickle_module``, for both of its file formats and in every version: so this
module is one mechanism where torch's own ``weights_only=True`` would need three
(tuple registration from 2.6, ``safe_globals`` from 2.5, nothing before), and it
is the stricter one. A file can name only what :mod:`mmkd.compat.harmless` lists;
of that it can call only the constructors, and change only what those built.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any

from .harmless import ForbiddenPickle, allowed, build, call, new

__all__ = ['Unpickler', 'load']


# The pure Python class: the C one cannot be told what may be called or changed,
# and its speed is not needed, as checkpoints hold few objects beside raw storages.
_PythonUnpickler: Any = pickle._Unpickler


class Unpickler(_PythonUnpickler):
    """``pickle.Unpickler`` restricted to harmless data.

    Args:
        file: Binary file to read from.
        **options: As for ``pickle.Unpickler``.

    Raises:
        ForbiddenPickle: While loading, before anything forbidden happens.

    Example:
        >>> import io
        >>> load(io.BytesIO(pickle.dumps({'epoch': 3})))
        {'epoch': 3}
        >>> load(io.BytesIO(pickle.dumps(print)))
        Traceback (most recent call last):
        mmkd.compat.harmless.ForbiddenPickle: builtins.print
    """

    # A copy: everyone else uses the original.
    dispatch: dict[int, Callable[[Any], None]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return allowed(module, name)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], arguments)

    def _newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = new(self.stack[-1], arguments)

    def _build(self) -> None:
        state = self.stack.pop()
        build(self.stack[-1], state)

    def _persistent_id(self) -> None:
        pid = self.stack.pop()
        # torch's reader of the old format also knows 'module' ids, and writes
        # patch files for them.
        kind = pid[0] if type(pid) is tuple and pid else None
        if type(kind) is not str or kind != 'storage':
            raise ForbiddenPickle('a persistent id that is not a storage')
        self.append(self.persistent_load(pid))

    def _forbidden(self) -> None:
        raise ForbiddenPickle('an opcode that checkpoints do not use')


def _filling(opcode: bytes, types: tuple[type, ...], marked: bool, depth: int) -> None:
    """Let ``opcode`` fill only containers of exactly ``types``."""
    fill = _PythonUnpickler.dispatch[opcode[0]]

    def checked(self: Any) -> None:
        # Items after a MARK lie on a stack of their own.
        target = self.metastack[-1][-1] if marked else self.stack[-depth]
        if type(target) not in types:
            raise ForbiddenPickle(f'items added to a {type(target).__name__}')
        fill(self)

    Unpickler.dispatch[opcode[0]] = checked


_filling(pickle.APPEND, (list,), False, 2)
_filling(pickle.APPENDS, (list,), True, 1)
_filling(pickle.SETITEM, (dict, OrderedDict, Counter), False, 3)
_filling(pickle.SETITEMS, (dict, OrderedDict, Counter), True, 1)
_filling(pickle.ADDITEMS, (set,), True, 1)
Unpickler.dispatch.update(
    {
        pickle.REDUCE[0]: Unpickler._reduce,
        pickle.NEWOBJ[0]: Unpickler._newobj,
        pickle.BUILD[0]: Unpickler._build,
        pickle.BINPERSID[0]: Unpickler._persistent_id,
    }
)
for _opcode in (
    pickle.PERSID,
    pickle.INST,
    pickle.OBJ,
    pickle.NEWOBJ_EX,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
):
    Unpickler.dispatch[_opcode[0]] = Unpickler._forbidden


def load(file: IO[bytes], **options: Any) -> Any:
    """Read one restricted pickle, leaving ``file`` right behind it.

    Args:
        file: Binary file to read from.
        **options: As for ``pickle.load``.

    Returns:
        The object.

    Raises:
        ForbiddenPickle: When the pickle asks for more than harmless data.

    Example:
        >>> import io
        >>> load(io.BytesIO(pickle.dumps([1, 2])))
        [1, 2]
    """
    return Unpickler(file, **options).load()
