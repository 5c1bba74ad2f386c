"""Weights of a frozen network's convolutions, as the kernels of a CPU read them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from .economy import is_autocast
from .folding import is_plain_conv


class Prepacking:
    """A network's convolutions with weights that oneDNN need not reorder.

    oneDNN computes with weights in blocks. From plain ones, which training changes in
    every step, each call makes them anew: at small pictures a quarter of a ResNet's
    pass. Frozen ones are reordered once, at a convolution's first call. In their place
    the parameter holds NaN that takes no memory, so that nothing is stored twice.

    Where a pass is not a plain one (gradients, autocast, another precision or
    device) a convolution takes its weights out of the blocks again, for that call.

    Args:
        model: The network.

    Example:
        >>> conv, x = nn.Conv2d(3, 4, 3).requires_grad_(False), torch.ones(1, 3, 8, 8)
        >>> before, weight = conv(x), conv.weight.clone()
        >>> packed = Prepacking(conv)
        >>> torch.allclose(conv(x), before, atol=1e-6), conv.weight.isnan().all().item()
        (True, True)
        >>> packed.undo()
        >>> torch.equal(conv.weight, weight)
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self._blocks: dict[nn.Parameter, Tensor] = {}  # convolutions may share one
        self._convs = [m for m in model.modules() if _is_packable(m)]
        for conv in self._convs:
            vars(conv)['forward'] = functools.partial(self._run, conv)

    @staticmethod
    def is_possible() -> bool:
        """Whether this build of torch can do it, at this moment."""
        return bool(
            torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
            and hasattr(torch.ops.mkldnn, '_convolution_pointwise')
        )

    def undo(self) -> None:
        """Put everything back where it was."""
        for conv in self._convs:
            del vars(conv)['forward']
        for weight, blocks in self._blocks.items():
            weight.data = blocks.to_dense().to(weight)
        self._convs, self._blocks = [], {}

    def __deepcopy__(self, memo: dict) -> Prepacking:
        # Tensors in blocks cannot be copied; these never change.
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin._convs = copy.deepcopy(self._convs, memo)
        twin._blocks = {copy.deepcopy(w, memo): x for w, x in self._blocks.items()}
        return twin

    def _run(self, conv: Any, x: Tensor) -> Tensor:
        geometry = conv.padding, conv.stride, conv.dilation, conv.groups
        blocks = self._blocks.get(conv.weight)
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        if (
            wants_gradient
            or x.dim() != 4
            or not (_is_single(x) and _is_single(conv.weight))
        ):
            weight = conv.weight if blocks is None else blocks.to_dense().to(x)
            return conv._conv_forward(x, weight, conv.bias)
        if blocks is None:
            # Pictures of other sizes run on the same ones.
            plain = conv.weight.data
            blocks = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                plain.to_mkldnn(), *geometry, list(x.shape)
            )
            self._blocks[conv.weight] = blocks
            conv.weight.data = plain.new_full((), torch.nan).expand(plain.shape)
        return torch.ops.mkldnn._convolution_pointwise(
            x, blocks, conv.bias, *geometry, 'none', [], ''
        )


def _is_packable(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and is_plain_conv(module)
        and module.padding_mode == 'zeros'
        and not isinstance(module.padding, str)
        and 'forward' not in vars(module)
    )


def _is_single(x: Tensor) -> bool:
    """Whether it is in single precision on a CPU, which computes in that."""
    return (
        x.device.type == 'cpu' and x.dtype == torch.float32 and not is_autocast('cpu')
    )
