"""The middle channels of blocks by importance: the model gets the largest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .layout import Layout

#: From a parameter to a tensor of its shape: its data, or a moment of it.
Get = Callable[[Tensor], Tensor | None]


@torch.no_grad()
def sort_channels(
    model: nn.Module,
    extensions: nn.Module,
    layout: Layout,
    optimizers: Iterable[Optimizer] = (),
) -> None:
    """Put the channels in the middle of every block into the order of their norms.

    The norm is L1, of what the convolution that reads them makes of each. The widest
    network stays the same function; the model, which is its leading part, becomes that
    of the most important channels.

    Args:
        model: The model.
        extensions: What it has more, under the same paths.
        layout: The groups of channels; those between blocks stay as they are.
        optimizers: Whose moments go with the weights.
    """
    gets: list[Get] = [lambda p: p]
    for optimizer in optimizers:
        keys = {key for state in optimizer.state.values() for key in state}
        gets += [_moment(optimizer.state, key) for key in sorted(keys)]
    orders = {
        name: _order(model, extensions, layout, name)
        for name in layout.groups
        if name not in layout.stream
    }
    for path, groups in layout.convs.items():
        ins, outs = (orders.get(name) if name else None for name in groups)
        conv, more = model.get_submodule(path), extensions.get_submodule(path)
        for get in gets:
            _permute_conv(conv, more, get, ins, outs)
    for path, name in layout.norms.items():
        if name in orders:
            norm: Any = model.get_submodule(path)
            more = extensions.get_submodule(path).more  # type: ignore[assignment]
            for key in ('weight', 'bias'):
                for get in gets:
                    _permute(norm._parameters, more._parameters, key, get, orders[name])
            for key in ('running_mean', 'running_var'):
                _permute(norm._buffers, more._buffers, key, gets[0], orders[name])


def _moment(states: Mapping[Any, Mapping], key: str) -> Get:
    def get(parameter: Tensor) -> Tensor | None:
        found = states.get(parameter, {}).get(key)
        fits = isinstance(found, Tensor) and found.shape == parameter.shape
        return found if fits else None

    return get


def _order(model: nn.Module, extensions: Any, layout: Layout, name: str) -> Tensor:
    """Indices of a group's channels, the most important ones first."""
    (path,) = [
        path
        for path, (ins, outs) in layout.convs.items()
        if ins == name and outs != name
    ]
    weight = _whole(model.get_submodule(path), extensions.get_submodule(path))
    assert weight is not None
    unit = layout.groups[name].unit
    norms = weight.abs().sum((0, 2, 3)).view(-1, unit).sum(1)
    first = norms.argsort(descending=True, stable=True) * unit
    within = torch.arange(unit, device=first.device)
    return (first[:, None] + within).flatten()


def _whole(conv: Any, more: Any, get: Get = lambda p: p) -> Tensor | None:
    """A convolution's weight at its largest; ``None`` if a part is not known."""
    whole = get(conv.weight)
    for extra, axis in ((more.columns, 1), (more.rows, 0)):
        if extra is not None:
            part = get(extra.weight)
            if whole is None or part is None:
                return None
            whole = torch.cat([whole, part], axis)
    return whole


def _permute_conv(
    conv: Any, more: Any, get: Get, ins: Tensor | None, outs: Tensor | None
) -> None:
    whole = _whole(conv, more, get)
    if whole is None or (ins is None and outs is None):
        return
    if outs is not None:
        whole = whole[outs]
    if ins is not None and conv.groups == 1:
        whole = whole[:, ins]
    rows, columns = conv.weight.shape[:2]
    _write(get(conv.weight), whole[:rows, :columns])
    if more.columns is not None:
        _write(get(more.columns.weight), whole[:rows, columns:])
    if more.rows is not None:
        _write(get(more.rows.weight), whole[rows:])
        if conv.bias is not None and outs is not None:
            _permute(conv._parameters, more.rows._parameters, 'bias', get, outs)


def _permute(own: Mapping, more: Mapping, key: str, get: Get, order: Tensor) -> None:
    pair: Sequence[Any] = (own.get(key), more.get(key))
    found = [None if tensor is None else get(tensor) for tensor in pair]
    if any(tensor is None for tensor in found):
        return
    whole = torch.cat(found)[order]  # type: ignore[arg-type]
    _write(found[0], whole[: len(pair[0])])
    _write(found[1], whole[len(pair[0]) :])


def _write(target: Tensor | None, value: Tensor) -> None:
    assert target is not None
    target.copy_(value)
