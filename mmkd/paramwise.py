"""``paramwise_cfg`` is about the student; what distils is not caught by its keys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn


def spare(kind: type[nn.Module]) -> None:
    """Let no rule in ``custom_keys`` match parameters of a kind of module.

    MMEngine looks for the keys anywhere in a parameter's name. A rule for ``norm``
    or ``bias`` of the student, or for ``backbone`` where a term is called
    ``loss_backbone``, would change how an adapter is trained. Only keys that
    contain ``distiller`` are meant for it.

    Args:
        kind: Such as :class:`~mmkd.distiller.Distiller`.
    """
    stock = DefaultOptimWrapperConstructor.__call__

    @functools.wraps(stock)
    def build(self: Any, model: nn.Module) -> Any:
        # On the instance: subclasses have their own, and all call themselves by it.
        self.add_params = functools.partial(_add_params, self, self.add_params, kind)
        try:
            return stock(self, model)
        finally:
            del self.add_params

    DefaultOptimWrapperConstructor.__call__ = build


def _add_params(
    constructor: Any,
    stock: Callable,
    kind: type[nn.Module],
    params: list[dict],
    module: nn.Module,
    **arguments: Any,
) -> None:
    rules = constructor.paramwise_cfg
    if not isinstance(module, kind) or 'custom_keys' not in rules:
        stock(params, module, **arguments)
        return
    keys = {
        key: rule for key, rule in rules['custom_keys'].items() if 'distiller' in key
    }
    constructor.paramwise_cfg = {**rules, 'custom_keys': keys}
    try:
        stock(params, module, **arguments)
    finally:
        constructor.paramwise_cfg = rules
