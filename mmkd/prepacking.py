"""Weights of a frozen network's convolutions, as the kernels of a CPU read them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .folding import is_plain_conv


class PackedWeight(Tensor):
    """The weight of a convolution, stored in the blocks that oneDNN computes with.

    From plain weights, which training changes in every step, each call makes such
    blocks anew: at small pictures a quarter of a ResNet's pass. These are made once, at
    the first convolution in single precision, and the plain ones are let go. To
    whatever else is done with it (compared, copied, moved, cast, stored, changed in
    place) it is the plain weight.

    Args:
        store: One item, the plain weight or its blocks; shared with what is detached.

    Example:
        >>> conv, x = nn.Conv2d(3, 4, 3).requires_grad_(False), torch.ones(1, 3, 8, 8)
        >>> before, weight = conv(x), conv.weight.clone()
        >>> prepack(conv)
        >>> torch.allclose(conv(x), before, atol=1e-6), torch.equal(conv.weight, weight)
        (True, True)
        >>> conv(x).dtype, conv.double()(x.double()).dtype
        (torch.float32, torch.float64)
    """

    store: list[Tensor]

    # What is done with it arrives below, at the operators.
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, store: list[Tensor]) -> PackedWeight:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, store[0].shape, dtype=store[0].dtype, device=store[0].device
        )

    def __init__(self, store: list[Tensor]) -> None:
        self.store = store

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        # How a module is moved and cast.
        other = PackedWeight(
            [value.plain() if isinstance(value, type(self)) else value]
        )
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.store = other.store

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if func is aten.detach.default:
            return cls(args[0].store)
        if func is aten.clone.default:
            return cls([args[0].plain()])
        if func is aten.convolution.default and _is_for_blocks(args[0], args[1]):
            return args[1]._convolved(args[0], *args[2:])
        plain: dict[int, Tensor] = {}

        def unpacked(value: Any) -> Any:
            if not isinstance(value, cls):
                return value
            return plain.setdefault(id(value.store), value.plain())

        found = func(*tree_map(unpacked, args), **tree_map(unpacked, kwargs))
        if func._schema.is_mutable and isinstance(args[0], cls):
            args[0].store[0] = plain[id(args[0].store)]
            return args[0]
        return found

    def plain(self) -> Tensor:
        """The weight, (out, in / groups, height, width)."""
        (weight,) = self.store
        return weight if weight.layout == torch.strided else weight.to_dense()

    def __deepcopy__(self, memo: dict) -> Tensor:
        twin = memo[id(self)] = self._unpacked()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._unpacked().__reduce_ex__(protocol)

    def _unpacked(self) -> Tensor:
        """A copy that is nothing but a tensor, or a parameter."""
        plain = self.plain().clone()
        return _parameter(plain) if isinstance(self, nn.Parameter) else plain

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f'{type(self).__name__}({self.plain()!r})'

    def _convolved(
        self,
        x: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        _: bool,
        __: list[int],
        groups: int,
    ) -> Tensor:
        geometry = padding, stride, dilation, groups
        if self.store[0].layout == torch.strided:
            # Pictures of other sizes run on the same ones.
            self.store[0] = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                self.store[0].to_mkldnn(), *geometry, list(x.shape)
            )
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.store[0], bias, *geometry, 'none', [], ''
        )


def prepack(model: nn.Module) -> None:
    """Give the frozen convolutions of a network on a CPU packed weights.

    Those that have them already, and all others, stay as they are.

    Args:
        model: The network; changed in place.
    """
    packed: dict[Tensor, nn.Parameter] = {}  # convolutions may share one
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and is_plain_conv(module):
            weight = module.weight
            if _is_single(weight) and not isinstance(weight, PackedWeight):
                if weight not in packed:
                    packed[weight] = _parameter(PackedWeight([weight.detach()]))
                module.weight = packed[weight]


@functools.cache
def can_prepack() -> bool:
    """Whether this build of torch can do it."""
    conv = nn.Conv2d(1, 1, 1).requires_grad_(False)
    x = torch.zeros(1, 1, 1, 1)
    expected = conv(x)
    try:
        prepack(conv)
        return torch.equal(conv(x), expected)
    except (RuntimeError, AttributeError, TypeError):  # no oneDNN, or another one
        return False


def _parameter(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _is_single(x: Tensor) -> bool:
    return x.device.type == 'cpu' and x.dtype == torch.float32 and not x.requires_grad


def _is_for_blocks(x: Any, weight: Any) -> bool:
    """Whether it is a plain pass: no gradient flows back through it."""
    wants_gradient = torch.is_grad_enabled() and x.requires_grad
    return (
        isinstance(weight, PackedWeight)
        and x.dim() == 4
        and _is_single(x.detach())
        and not wants_gradient
    )
