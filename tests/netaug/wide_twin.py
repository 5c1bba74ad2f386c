"""A wider network as a model of its own, with weights that it really has."""

from __future__ import annotations

import copy

import torch
from torch import nn


def wide(conv, extension, ins, outs):
    """A convolution's weight at a width, put together part by part."""
    weight = conv.weight.new_full((outs, ins, *conv.kernel_size), float('nan'))
    weight[: conv.out_channels, : conv.weight.shape[1]] = conv.weight
    if extension.columns is not None:
        columns = extension.columns.weight[:, : ins - conv.in_channels]
        weight[: conv.out_channels, conv.in_channels :] = columns
    if extension.rows is not None:
        rows = extension.rows.weight[: outs - conv.out_channels, :ins]
        weight[conv.out_channels :] = rows
    assert not weight.isnan().any()
    return weight


def wide_twin(model, factors):
    """A copy of a NetAug model in which every module has its width.

    Args:
        model: The model, with BatchNorm where it is extended.
        factors: Name of a group of channels -> factor.
    """
    layout, extensions = model.netaug.layout, model.netaug.extensions
    sizes = layout.sizes(factors)
    twin = copy.deepcopy(model)
    for path, (ins, outs) in layout.convs.items():
        conv = model.get_submodule(path)
        if isinstance(conv, nn.Linear):
            more = extensions.get_submodule(path).columns.weight
            more = more[:, : sizes[ins] - conv.in_features]
            made = nn.Linear(sizes[ins], conv.out_features)
            made.weight.data = torch.cat([conv.weight, more], 1).detach()
            made.bias.data = conv.bias.detach().clone()
            _put(twin, path, made)
            continue
        width_in = sizes[ins] if ins else conv.in_channels
        width_out = sizes[outs] if outs else conv.out_channels
        groups = conv.groups
        if groups > 1:
            groups = width_out * groups // conv.out_channels
        made = nn.Conv2d(
            width_in,
            width_out,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            groups,
            bias=conv.bias is not None,
        )
        more = extensions.get_submodule(path)
        made.weight.data = wide(conv, more, made.weight.shape[1], width_out).data
        if conv.bias is not None:
            parts = [conv.bias] + ([more.rows.bias] if more.rows is not None else [])
            made.bias.data = torch.cat(parts)[:width_out].detach()
        _put(twin, path, made)
    for path, name in layout.norms.items():
        norm = model.get_submodule(path)
        more = extensions.get_submodule(path).more
        made = nn.BatchNorm2d(sizes[name], norm.eps, norm.momentum)
        for key in ('weight', 'bias'):
            both = torch.cat([getattr(norm, key), getattr(more, key)])
            getattr(made, key).data = both[: sizes[name]].detach()
        _put(twin, path, made)
    return twin


def _put(model, path, module):
    parent, _, name = path.rpartition('.')
    setattr(model.get_submodule(parent), name, module)
