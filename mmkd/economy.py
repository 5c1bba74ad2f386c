"""What makes a teacher's pass cheaper, without and with other numbers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from .taps import Tap, resolve

#: Names in configs of the precisions that a teacher can run in.
DTYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16}


@dataclass(frozen=True)
class Economy:
    """How a teacher saves time.

    The first three change nothing but the rounding and are on; the others are a choice.

    Args:
        fold_norms: Fold BatchNorm into the convolutions before it.
        prune: Leave out what no loss reads, such as a head's other tower, and leave
            those weights off the device.
        channels_last: Memory format of the convolutions; ``None`` takes it where it
            is faster: in half precision, and on a CPU where no convolution is dilated.
            A network that does not run in it keeps the usual one.
        dtype: ``'fp16'`` or ``'bf16'``; ``None`` for the student's precision.
        compile: Whether ``torch.compile`` compiles what runs.
        stream: Whether it runs on a CUDA stream of its own, beside the student's
            forward pass. Its activations then come on top of the student's.

    Raises:
        ValueError: If a value is none of these.

    Example:
        >>> Economy(dtype='int8')
        Traceback (most recent call last):
        ValueError: the teacher's dtype must be None, 'bf16' or 'fp16' but is 'int8'
    """

    fold_norms: bool = True
    prune: bool = True
    channels_last: bool | None = None
    dtype: str | None = None
    compile: bool = False
    stream: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(
                "the teacher's dtype must be None, 'bf16' or 'fp16' but is "
                f'{self.dtype!r}'
            )
        for name in ('fold_norms', 'prune', 'compile', 'stream', 'channels_last'):
            value = getattr(self, name)
            if not isinstance(value, bool) and (name, value) != ('channels_last', None):
                raise ValueError(
                    f"the teacher's {name} must be True or False but is {value!r}"
                )

    @classmethod
    def names(cls) -> list[str]:
        """Names of the options."""
        return [field.name for field in fields(cls)]

    def autocast(self, device: torch.device) -> Any:
        """Context of the precision that was chosen."""
        if self.dtype is None:
            return contextlib.nullcontext()
        # Weights are cast once, by `cast`; a cache would hold them a second time.
        dtype = DTYPES[self.dtype]
        return torch.autocast(device.type, dtype=dtype, cache_enabled=False)

    def cast(self, model: nn.Module) -> None:
        """Store the weights of convolutions and linear layers in that precision.

        Autocast casts them in every pass otherwise. Norms and what a network makes
        of parameters of its own stay as they are.
        """
        if self.dtype is None:
            return
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(DTYPES[self.dtype])


def take_options(options: Mapping[str, Any]) -> Economy:
    """The part of a ``teacher`` entry that is about economy.

    Example:
        >>> take_options(dict(config='a.py', prune=False)).prune
        False
    """
    return Economy(**{k: v for k, v in options.items() if k in Economy.names()})


def compile_below(model: nn.Module, tap_types: Mapping[str, type[Tap]]) -> int:
    """Compile the largest modules that nothing is tapped in.

    A tapped module is compiled itself if its output alone is recorded.

    Args:
        model: The network; its modules get a compiled ``forward``.
        tap_types: Path -> how it will be tapped.

    Returns:
        How many were compiled.
    """
    watched: dict[nn.Module, set[str]] = {}
    for path, kind in tap_types.items():
        for module, name in kind(path, resolve(model, path), model).watched:
            watched.setdefault(module, set()).add(name)
    count = 0

    def visit(module: nn.Module) -> None:
        nonlocal count
        inner = any(m in watched for m in module.modules() if m is not module)
        own = watched.get(module, set()) - _SILENT
        has_forward = type(module).forward is not nn.Module.forward
        if module is model or inner or own or isinstance(module, nn.ModuleList):
            for child in module.children():
                visit(child)
        elif has_forward and any(True for _ in module.parameters()):
            vars(module)['forward'] = _compiled(module)
            count += 1

    visit(model)
    return count


#: Methods that a forward pass of a head does not call.
_SILENT = frozenset({'forward', 'get_targets', 'loss_by_feat', 'loss'})


def _compiled(module: nn.Module) -> Callable:
    # The stock class's method, bound: what is on the instance may be a tap's.
    forward = torch.compile(functools.partial(type(module).forward, module))

    @functools.wraps(type(module).forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except Exception as error:
            raise RuntimeError(
                f'the compiled {type(module).__name__} of the teacher failed: '
                f'{type(error).__name__}: {error}; set teacher.compile=False'
            ) from error

    return run
