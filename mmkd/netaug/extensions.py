"""The weights that a wider network has more than the one it contains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .layout import channels_of

#: A dict of a module, such as its parameters; a key; what is put there for a while.
Change = tuple[dict, str, Any]
_STATISTICS = ('running_mean', 'running_var')


class ConvExtension(nn.Module):
    """What a convolution has more, as its weight's rows and columns.

    Args:
        conv: The convolution, of which nothing is kept.
        ins: Channels that it reads at most; ``None`` if they stay as they are.
        outs: Channels that it yields at most; the same.

    The weight of the wider convolution, of which any leading part can be taken::

        +------+---------+
        | conv | columns |
        +------+---------+
        |      rows      |
        +----------------+
    """

    def __init__(self, conv: Any, ins: int | None, outs: int | None) -> None:
        super().__init__()
        size = dict(
            kernel_size=conv.kernel_size,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        biased = conv.bias is not None
        all_in, all_out = ins or conv.in_channels, outs or conv.out_channels
        more_in, more_out = all_in - conv.in_channels, all_out - conv.out_channels
        self.rows: Any = None
        self.columns: Any = None
        if conv.groups > 1:  # groups are added, each as wide as those there are
            groups = more_out * conv.groups // conv.out_channels
            self.rows = nn.Conv2d(more_in, more_out, groups=groups, bias=biased, **size)
            nn.init.kaiming_uniform_(self.rows.weight)
            return
        whole = conv.weight.new_empty(all_out, all_in, *conv.kernel_size)
        nn.init.kaiming_uniform_(whole)
        if more_out:
            self.rows = nn.Conv2d(all_in, more_out, bias=biased, **size)
            self.rows.weight.data.copy_(whole[conv.out_channels :])
        if more_in:
            self.columns = nn.Conv2d(more_in, conv.out_channels, bias=False, **size)
            columns = whole[: conv.out_channels, conv.in_channels :]
            self.columns.weight.data.copy_(columns)

    def changes(self, conv: Any, ins: int | None, outs: int | None) -> list[Change]:
        """What makes the convolution a wider one.

        Every weight is part of the graph, those beyond the width with a gradient of
        zero: DistributedDataParallel waits for all of them.

        Args:
            conv: The convolution.
            ins: Channels that it reads; ``None`` if they are not extended.
            outs: Channels that it yields; the same.
        """
        weight, bias = conv.weight, conv.bias
        if self.columns is not None:
            more = (ins or conv.in_channels) - conv.in_channels
            weight = torch.cat([weight, self.columns.weight[:, :more]], 1)
        if self.rows is not None:
            more = (outs or conv.out_channels) - conv.out_channels
            rows = self.rows.weight[:more]
            weight = torch.cat([weight, rows[:, : weight.shape[1]]])
            if bias is not None:
                bias = torch.cat([bias, self.rows.bias[:more]])
        groups = conv.groups
        if groups > 1:
            groups = len(weight) * groups // conv.out_channels
        return [
            (place_of(conv, 'weight'), 'weight', weight),
            (place_of(conv, 'bias'), 'bias', bias),
            (vars(conv), 'groups', groups),
        ]


class LinearExtension(nn.Module):
    """Columns that a linear layer has more, which reads means of wider maps.

    Args:
        linear: The layer, of which nothing is kept.
        ins: Features that it reads at most.
        outs: None: what it yields stays as it is.
    """

    def __init__(self, linear: nn.Linear, ins: int, outs: None = None) -> None:
        super().__init__()
        whole = linear.weight.new_empty(linear.out_features, ins)
        nn.init.kaiming_uniform_(whole)
        more = ins - linear.in_features
        self.columns = nn.Linear(more, linear.out_features, bias=False)
        self.columns.weight = nn.Parameter(whole[:, linear.in_features :].clone())

    def changes(self, linear: Any, ins: int | None, outs: None) -> list[Change]:
        """What makes the layer a wider one; see :meth:`ConvExtension.changes`."""
        more = (ins or linear.in_features) - linear.in_features
        columns = self.columns.weight[:, :more]
        weight = torch.cat([linear.weight, columns], 1)
        return [(place_of(linear, 'weight'), 'weight', weight)]


class NormExtension(nn.Module):
    """Scale, offset and statistics of the channels that a normalisation has more.

    Args:
        norm: BatchNorm or GroupNorm, of which nothing is kept.
        channels: Channels that it normalises at most.
    """

    def __init__(self, norm: Any, channels: int) -> None:
        super().__init__()
        more = channels - channels_of(norm)
        options: dict[str, Any] = dict(affine=norm.affine, eps=norm.eps)
        kind: Any = nn.BatchNorm2d
        if isinstance(norm, nn.GroupNorm):
            kind = nn.GroupNorm
            count = more * norm.num_groups // norm.num_channels
            options.update(num_groups=count, num_channels=more)
        else:
            options.update(num_features=more, momentum=norm.momentum)
            options.update(track_running_stats=norm.track_running_stats)
        # Of the same kind as the other: rules for normalisations mean it, too.
        self.more: Any = kind(**options).to(next(norm.parameters(), torch.zeros(())))

    @contextmanager
    def widened(self, norm: Any, channels: int, shared: bool) -> Iterator[None]:
        """Make the normalisation a wider one inside a ``with`` block.

        Args:
            norm: The normalisation.
            channels: Its channels in the block.
            shared: Whether its running statistics see what passes.
        """
        base = channels_of(norm)
        more = channels - base
        changes: list[Change] = []
        if norm.affine:
            for name in ('weight', 'bias'):
                parts = [getattr(norm, name), getattr(self.more, name)[:more]]
                changes.append((place_of(norm, name), name, torch.cat(parts)))
        if self._is_group:
            groups = channels * norm.num_groups // base
            changes.append((vars(norm), 'num_groups', groups))
            changes.append((vars(norm), 'num_channels', channels))
        tracked = {
            name: torch.cat([norm._buffers[name], self.more._buffers[name][:more]])
            for name in _STATISTICS
            if not self._is_group and norm._buffers.get(name) is not None
        }
        changes += [(norm._buffers, name, tracked[name]) for name in tracked]
        with replaced(changes):
            yield
        for name, both in tracked.items():
            self.more._buffers[name][:more] = both[base:]
            if shared:
                # Not in place: the base's own pass waits for its backward.
                norm._buffers[name].data.copy_(both[:base])

    @property
    def _is_group(self) -> bool:
        return isinstance(self.more, nn.GroupNorm)


def place_of(module: nn.Module, name: str) -> dict:
    """The dict that has a parameter of a module.

    Where parameters are sharded it is the module's own while a pass needs them.

    Args:
        module: The module.
        name: Of the parameter.
    """
    return vars(module) if name in vars(module) else module._parameters


@contextmanager
def replaced(changes: list[Change]) -> Iterator[None]:
    """Put other values into dicts of modules inside a ``with`` block.

    Example:
        >>> relu = nn.ReLU()
        >>> with replaced([(vars(relu), 'inplace', True)]):
        ...     relu.inplace
        True
        >>> relu.inplace
        False
    """
    before = [(space, key, space[key]) for space, key, _ in changes]
    try:
        for space, key, value in changes:
            space[key] = value
        yield
    finally:
        for space, key, value in before:
            space[key] = value
