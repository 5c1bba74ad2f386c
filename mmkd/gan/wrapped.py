"""Keys of weights whose modules are wrapped one by one for several processes."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def keep_keys(model: nn.Module) -> None:
    """Let the ``state_dict`` of a model be the same with its children wrapped.

    ``MMSeparateDistributedDataParallel`` puts every child into a wrapper, whose name
    would be part of all keys: a checkpoint of two processes would fit nothing else.

    Args:
        model: The model; its keys are as without wrappers, when it is saved and when
            it is loaded, by torch and by MMEngine.

    Example:
        >>> from mmengine.registry import MODEL_WRAPPERS
        >>> @MODEL_WRAPPERS.register_module(force=True)
        ... class Wrapper(nn.Module):
        ...     def __init__(self, module):
        ...         super().__init__()
        ...         self.module = module
        >>> model = nn.ModuleDict(dict(generator=nn.Linear(1, 1)))
        >>> keep_keys(model)
        >>> before = model.state_dict()
        >>> model['generator'] = Wrapper(model['generator'])
        >>> list(model.state_dict())
        ['generator.weight', 'generator.bias']
        >>> model.load_state_dict(before)
        <All keys matched successfully>
    """
    model._register_state_dict_hook(_without_wrappers)
    model.register_load_state_dict_pre_hook(_with_both)
    model.register_load_state_dict_post_hook(_forget_the_other)


def _wrapped(model: nn.Module) -> list[str]:
    return [name for name, child in model.named_children() if is_model_wrapper(child)]


def _without_wrappers(model: Any, state: Any, prefix: str, *_: Any) -> None:
    for name in _wrapped(model):
        inside = f'{prefix}{name}.module.'
        for key in [key for key in state if key.startswith(inside)]:
            state[f'{prefix}{name}.{key[len(inside) :]}'] = state.pop(key)


def _with_both(model: Any, state: Any, prefix: str, *_: Any) -> None:
    # MMEngine looks through wrappers, torch does not: each finds the keys it looks for.
    for name in _wrapped(model):
        outside, inside = f'{prefix}{name}.', f'{prefix}{name}.module.'
        for key in [key for key in state if key.startswith(outside)]:
            if not key.startswith(inside):
                state[inside + key[len(outside) :]] = state[key]


def _forget_the_other(model: Any, incompatible: Any) -> None:
    keys = incompatible.unexpected_keys
    for name in _wrapped(model):
        kept, found = [], set(keys)
        for key in keys:
            before, is_inside, after = f'.{key}'.partition(f'.{name}.')
            twin = f'{before}.{name}.module.{after}'[1:]
            # What nobody looks for is unexpected in both of its forms.
            if not is_inside or (twin in found and not after.startswith('module.')):
                kept.append(key)
        keys[:] = kept
