"""What a frozen network computes for nobody, left out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .nested import patched

#: Paths of a tap and the fields of it that are read, or ``None`` for all.
Reads = dict[str, 'frozenset[str] | None']


class Pruning:
    """Which modules of a network the values that are read do not depend on.

    A head with two towers computes both, also for a loss that reads one. What a value
    depends on is seen in one pass with gradients, so that nothing has to be known of
    the head. In the place of a convolution, norm or activation that nothing needs there
    are zeros of the same shape that take no memory.

    Args:
        model: The frozen network in evaluation mode; not changed.
        forward: Runs it once, with an input that wants gradients, and returns its
            taps by path.
        reads: Every path and field that may be read: path -> fields.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[], dict[str, Any]],
        reads: Reads,
    ) -> None:
        self._stand_ins: dict[nn.Module, Callable] = {}
        self._reached: dict[tuple[str, str | None], set[nn.Module]] = {}
        self._ran: set[nn.Module] = set()
        self._watch(model, forward, reads)

    def without(self, reads: Reads) -> Any:
        """Context in which what these fields do not need is not computed.

        Args:
            reads: Path -> fields, all of which were given when this was made.
        """
        return patched(self.idle(reads))

    def idle(self, reads: Reads) -> dict[nn.Module, Callable]:
        """Modules that these fields do not need, with what is called instead."""
        needed: set[nn.Module] = set()
        for key in pairs_of(reads):
            needed |= self._reached[key]
        return {m: f for m, f in self._stand_ins.items() if m not in needed}

    def unused(self, model: nn.Module, reads: Reads) -> set[nn.Module]:
        """Modules whose weights are not read: idle ones, and parts that never ran.

        Args:
            model: The network.
            reads: Path -> fields.
        """
        parts = [
            child for child in model.children() if self._ran.isdisjoint(child.modules())
        ]
        unused = {m for part in parts for m in part.modules()} | set(self.idle(reads))
        return {m for m in unused if any(True for _ in m.parameters())}

    def _watch(self, model: nn.Module, forward: Any, reads: Reads) -> None:
        makers: dict[Any, set[nn.Module]] = {}
        shapes: dict[nn.Module, bool] = {}
        silent: set[nn.Module] = set()

        def watched(module: nn.Module) -> Callable:
            original = module.forward

            def run(*args: Any, **kwargs: Any) -> Any:
                output = original(*args, **kwargs)
                self._ran.add(module)
                if not (isinstance(output, Tensor) and output.requires_grad):
                    silent.add(module)
                    return output
                # Now: what follows may change the tensor in place.
                makers.setdefault(output.grad_fn, set()).add(module)
                expected = _shape(module, args, kwargs)
                alike = expected is not None and expected == output.shape
                shapes[module] = shapes.get(module, True) and alike
                return output

            return run

        leaves = [m for m in model.modules() if not m._modules]
        with torch.enable_grad(), patched({leaf: watched(leaf) for leaf in leaves}):
            taps = forward()
        for path, field in pairs_of(reads):
            values = taps[path].tensors(None if field is None else (field,))
            nodes = _behind([v.grad_fn for v in values if v.requires_grad])
            found: set[nn.Module] = set()
            self._reached[path, field] = found.union(
                *(makers[node] for node in nodes & makers.keys())
            )
        for module, alike in shapes.items():
            if alike and module not in silent:
                self._stand_ins[module] = functools.partial(_zeros, module)


def _behind(nodes: list[Any]) -> set[Any]:
    """All nodes of the graph that a backward pass from some of them would visit."""
    found: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found.add(node)
            nodes += [following for following, _ in node.next_functions]
    return found


def pairs_of(reads: Reads) -> Iterable[tuple[str, str | None]]:
    """Every path with every field of it, or with ``None``."""
    for path, fields in reads.items():
        for field in [None] if fields is None else sorted(fields):
            yield path, field


def _shape(module: nn.Module, args: tuple, kwargs: Any) -> tuple[int, ...] | None:
    """Shape of what a module returns, where there is a rule for it."""
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
        return None
    shape = tuple(args[0].shape)
    if isinstance(module, nn.Linear):
        return (*shape[:-1], module.out_features)
    if isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
        sides = zip(
            shape[2:],
            module.padding,
            module.dilation,
            module.kernel_size,
            module.stride,
        )
        cells = [
            math.floor((n + 2 * p - d * (k - 1) - 1) / s) + 1 for n, p, d, k, s in sides
        ]
        return (shape[0], module.out_channels, *cells)
    return shape  # norms, activations, scales; of others it is found to differ


def _zeros(module: nn.Module, x: Tensor) -> Tensor:
    shape = _shape(module, (x,), {})
    assert shape is not None
    return x.new_zeros(()).expand(shape)
