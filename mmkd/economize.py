"""A frozen network made cheaper, now that it is known what is read of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from .dry_run import dry_run
from .economy import Economy, compile_below
from .folding import Folding
from .pruning import Pruning, Reads
from .rng import preserved_rng
from .taps import Tap

#: How far folded BatchNorm may move what a tap yields, as a share of its largest
#: value.
TOLERANCE = 1e-4


class Economized:
    """What was done to a network, and what is left out of its passes.

    BatchNorm is folded and what nobody reads is left out, each only if a pass on
    random pictures with it yields what a pass without it does: folded, within
    :data:`TOLERANCE`; pruned, the same numbers.

    Args:
        model: The network; changed in place where the economy says so.
        economy: What is wanted.
        tap_types: Path -> how it will be tapped.
        reads: Path -> fields that may be read.
        size: Side of a picture in pixels at which the network runs.

    Attributes:
        folded: Number of norms that were folded.
        unused: Modules whose weights no pass reads.
    """

    def __init__(
        self,
        model: nn.Module,
        economy: Economy,
        tap_types: Mapping[str, type[Tap]],
        reads: Reads,
        size: int,
    ) -> None:
        self.folded = 0
        self.unused: set[nn.Module] = set()
        self._pruning: Pruning | None = None
        look = functools.partial(_look, model, tap_types, size)
        if economy.fold_norms:
            self.folded = _fold(model, look)
        if economy.prune:
            with suppress(RuntimeError):  # parts of it run without gradients
                self._prune(model, look, reads)
        economy.cast(model)
        # Later, where it runs: a compiled network cannot be pickled.
        self._to_compile = dict(tap_types) if economy.compile else {}

    def compile(self, model: nn.Module) -> None:
        """Compile the network, once, if that is wanted.

        Args:
            model: The network, where it will run.
        """
        tap_types, self._to_compile = self._to_compile, {}
        if tap_types:
            compile_below(model, tap_types)

    def without_idle(self, reads: Reads) -> Any:
        """Context of a pass of which these fields are read.

        Args:
            reads: Path -> fields.
        """
        return self._pruning.without(reads) if self._pruning else nullcontext()

    def idle(self, reads: Reads) -> set[nn.Module]:
        """Modules that are left out of such a pass."""
        return set(self._pruning.idle(reads)) if self._pruning else set()

    def _prune(self, model: nn.Module, look: Callable, reads: Reads) -> None:
        pruning = Pruning(model, lambda: look(with_grad=True), reads)
        for path, fields in reads.items():
            whole = look()[path].tensors(fields)
            with pruning.without({path: fields}):
                part = look()[path].tensors(fields)
            if not all(map(torch.equal, whole, part)):
                return
        self._pruning = pruning
        self.unused = pruning.unused(model, reads)
        for tap in look().values():
            for module in tap.later:
                self.unused -= set(module.modules())


def _fold(model: nn.Module, look: Callable[[], dict[str, Tap]]) -> int:
    before = look()
    folding = Folding(model, look)
    if folding.pairs and not _close(before, look()):
        folding.undo()
        print_log(
            'mmkd: BatchNorm of the teacher stays as it is: folded, it would change '
            'what the taps yield',
            logger='current',
        )
    return len(folding.pairs)


def _close(before: dict[str, Tap], after: dict[str, Tap]) -> bool:
    for path, tap in before.items():
        for x, y in zip(tap.tensors(), after[path].tensors()):
            if x.is_floating_point() and x.numel():
                limit = TOLERANCE * x.abs().max()
                if not (x - y).abs().max() <= limit:  # NaN is not close
                    return False
    return True


def _look(
    model: nn.Module,
    tap_types: Mapping[str, type[Tap]],
    size: int,
    with_grad: bool = False,
) -> dict[str, Tap]:
    """What the taps yield for pictures that are always the same."""
    with preserved_rng():
        torch.manual_seed(0)
        seen = dry_run(model, tap_types, size, with_grad)
    if seen.failure:
        raise RuntimeError(seen.failure)
    return seen.taps
