"""BatchNorm of a frozen network, folded into the convolutions before it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .nested import patched


@dataclass
class Pair:
    """A convolution and the norm that alone reads it.

    Args:
        conv: The convolution.
        norm: The norm.
        owners: Modules that the norm is a child of, with its name there.
        weights: The convolution's weight and bias before folding.
    """

    conv: Any
    norm: Any
    owners: list[tuple[nn.Module, str]]
    weights: tuple[Tensor, Tensor | None]


class Folding:
    """A network's pairs of convolution and BatchNorm, folded.

    In evaluation BatchNorm multiplies every channel by a number and adds another one,
    which the convolution can do itself: the same outputs but for rounding, with less
    memory traffic. What belongs together is seen in a pass, so it does not matter how
    a network spells it (mmcv's ``ConvModule``, ``conv1`` and ``bn1`` of a ResNet, a
    ``Sequential``).

    Args:
        model: The network in evaluation mode; changed in place.
        forward: Runs it once.
        kept: Tells of what it returned which modules stay as they are.

    Attributes:
        pairs: What was folded.
        before: What ``forward`` returned ahead of that.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
        >>> x = torch.ones(1, 1, 1, 1)
        >>> before = model.eval()(x)
        >>> folding = Folding(model, lambda: model(x))
        >>> len(folding.pairs), model[1], torch.allclose(model(x), before)
        (1, Identity(), True)
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[], Any],
        kept: Callable[[Any], Collection[nn.Module]] = lambda returned: (),
    ) -> None:
        found, self.before = _pairs(model, forward)
        left = kept(self.before)
        self.pairs = [pair for pair in found if pair.conv not in left]
        for pair in self.pairs:
            _fold(pair)

    def undo(self) -> None:
        """Put everything back where it was."""
        for pair in self.pairs:
            pair.conv.weight, pair.conv.bias = pair.weights
            for owner, name in pair.owners:
                owner._modules[name] = pair.norm
        self.pairs = []


def _pairs(model: nn.Module, forward: Callable[[], Any]) -> tuple[list[Pair], Any]:
    # The tensor keeps its id taken; its version tells what changed it in place.
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    readers: dict[nn.Module, set[nn.Module | None]] = {}
    sources: dict[nn.Module, set[nn.Module | None]] = {}

    def watched(module: nn.Module) -> Callable:
        original = module.forward

        def conv(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            output = original(x, *args, **kwargs)
            made[id(output)] = (module, output, output._version)
            readers.setdefault(module, set())
            return output

        def norm(x: Tensor) -> Any:
            source, _, version = made.get(id(x), (None, x, 0))
            if version != x._version:
                source = None
            sources.setdefault(module, set()).add(source)
            if source is not None:
                readers[source].add(module)
            return original(x)

        return conv if isinstance(module, _CONVS) else norm

    parts = [m for m in model.modules() if _is_plain_conv(m) or _is_fixed_norm(m)]
    with torch.no_grad(), patched({part: watched(part) for part in parts}):
        returned = forward()
    owners: dict[nn.Module, list] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                owners.setdefault(child, []).append((parent, name))
    pairs = [
        Pair(conv, norm, owners[norm], (conv.weight, conv.bias))  # type: ignore[arg-type]
        for conv, norms in readers.items()
        if len(norms) == 1
        for norm in norms
        if norm is not None and sources[norm] == {conv}
    ]
    return pairs, returned


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: mmcv's `Conv2d` differs from torch's for empty inputs only. Others (weight
#: standardisation, masks) make their kernels from the weight: scaling it has no, or
#: another, effect.
_PLAIN = ('torch.nn.modules.conv', 'mmcv.cnn.bricks.wrappers')


def _is_plain_conv(module: nn.Module) -> bool:
    return isinstance(module, _CONVS) and type(module).__module__ in _PLAIN


def _is_fixed_norm(module: nn.Module) -> bool:
    return (
        isinstance(module, _BatchNorm)
        and type(module).forward is _BatchNorm.forward
        and not module.training
        and module.running_mean is not None
    )


def _fold(pair: Pair) -> None:
    conv, norm = pair.conv, pair.norm
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    shape = (-1, *[1] * (conv.weight.dim() - 1))
    weight = conv.weight.double() * scale.reshape(shape)
    # New parameters: the old ones may be shared with other modules.
    conv.weight, conv.bias = (
        nn.Parameter(x.detach().to(conv.weight), requires_grad=False)
        for x in (weight, shift)
    )
    for owner, name in pair.owners:
        owner._modules[name] = nn.Identity().eval()
