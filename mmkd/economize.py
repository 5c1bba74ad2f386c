"""A frozen network made cheaper, now that it is known what is read of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .dry_run import DryRun
from .economy import Economy, compile_below
from .folding import Folding
from .pruning import Pruning, Reads, pairs_of
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
        seen: Its dry run.
        reads: Path -> fields that may be read.

    Attributes:
        folded: Number of norms that were folded.
        unused: Modules whose weights no pass reads.
    """

    def __init__(
        self, model: nn.Module, economy: Economy, seen: DryRun, reads: Reads
    ) -> None:
        self.folded = 0
        self.unused: set[nn.Module] = set()
        self._pruning: Pruning | None = None
        look = functools.partial(_look, seen)
        whole: dict[str, Tap] | None = None
        if economy.fold_norms:
            self.folded, whole = _fold(model, look)
        whole = whole or look()
        if economy.prune:
            with suppress(RuntimeError):  # parts of it run without gradients
                self._prune(model, look, reads, whole)
        self._channels_last = economy.channels_last
        if economy.channels_last is not False and not _runs_channels_last(
            model, look, whole
        ):
            self._channels_last = False
        self._is_dilated = any(
            isinstance(m, nn.Conv2d) and max(m.dilation) > 1 for m in model.modules()
        )
        self._is_half = economy.dtype is not None
        economy.cast(model)
        # Later, where it runs: a compiled network cannot be pickled.
        types = {path: type(tap) for path, tap in seen.taps.items()}
        self._to_compile = types if economy.compile else {}
        self._compiled_for = dict(reads) if economy.compile else {}

    def compile(self, model: nn.Module) -> None:
        """Compile the network, once, if that is wanted.

        Args:
            model: The network, where it will run.
        """
        tap_types, self._to_compile = self._to_compile, {}
        if tap_types:
            compile_below(model, tap_types)

    def memory_format(self, inputs: Tensor) -> torch.memory_format:
        """In which format it is given these inputs, (N, C, H, W)."""
        wanted = self._channels_last
        if wanted is None:
            is_half = self._is_half or torch.is_autocast_enabled()
            on_cpu = inputs.device.type == 'cpu'
            wanted = not self._is_dilated if on_cpu else is_half
        return torch.channels_last if wanted else torch.contiguous_format

    def without_idle(self, reads: Reads) -> Any:
        """Context of a pass of which these fields are read.

        Args:
            reads: Path -> fields.
        """
        # What is compiled stays as it is, whatever a schedule switches off.
        wanted = self._compiled_for or reads
        return self._pruning.without(wanted) if self._pruning else nullcontext()

    def _prune(
        self, model: nn.Module, look: Callable, reads: Reads, whole: dict[str, Tap]
    ) -> None:
        pruning = Pruning(model, lambda: look(with_grad=True), reads)
        for path, field in pairs_of(reads):
            fields = None if field is None else frozenset({field})
            if not pruning.idle({path: fields}):
                continue
            with pruning.without({path: fields}):
                part = look()[path]
            if not _equal(whole[path].tensors(fields), part.tensors(fields)):
                return
        self._pruning = pruning
        unused = pruning.unused(model, reads)
        for tap in whole.values():
            for module in tap.later:
                unused -= set(module.modules())
        with pruning.without(reads), _spoilt(unused):
            part = look()
        if all(  # taps of terms that are off are not read
            _equal(whole[path].tensors(fields), part[path].tensors(fields))
            for path, fields in reads.items()
        ):
            self.unused = unused


def _fold(model: nn.Module, look: Callable) -> tuple[int, dict[str, Tap] | None]:
    """Number of norms that were folded, and what the taps yield now, if seen."""

    def tapped(taps: dict[str, Tap]) -> set[nn.Module]:
        return {module for tap in taps.values() for module, _ in tap.watched}

    folding = Folding(model, look, tapped)
    if not folding.pairs:
        return 0, folding.before
    after = look()
    if _close(folding.before, after):
        return len(folding.pairs), after
    folding.undo()
    print_log(
        'mmkd: BatchNorm of the teacher stays as it is: folded, it would change '
        'what the taps yield',
        logger='current',
    )
    return 0, folding.before


def _runs_channels_last(
    model: nn.Module, look: Callable, before: dict[str, Tap]
) -> bool:
    """Whether all of it takes that format: some operators insist on the other one."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        return _close(before, look(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@contextmanager
def _spoilt(modules: Iterable[nn.Module]) -> Iterator[None]:
    """NaN in the place of some weights: nothing that reads them stays the same."""
    kept = [(p, p.data) for m in modules for p in m.parameters(recurse=False)]
    for parameter, data in kept:
        parameter.data = torch.full_like(data, torch.nan)
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _close(before: dict[str, Tap], after: dict[str, Tap]) -> bool:
    for path, tap in before.items():
        for x, y in zip(tap.tensors(), after[path].tensors()):
            if x.is_floating_point() and x.numel():
                limit = TOLERANCE * x.abs().max()
                if not (x - y).abs().max() <= limit:  # NaN is not close
                    return False
    return True


def _look(seen: DryRun, **options: Any) -> dict[str, Tap]:
    """What the taps yield for pictures that are always the same."""
    assert seen.again is not None
    with preserved_rng():
        torch.manual_seed(0)
        now = seen.again(**options)
    if now.failure:
        raise RuntimeError(now.failure)
    return now.taps
