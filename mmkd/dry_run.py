"""A dry run finds out what taps yield before training starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import nn

from .taps import HeadView, Tap, record

#: Sides of the synthetic images in pixels. The smallest at which the whole model
#: runs is used; some (SSD) shrink their input to nothing at smaller ones.
SIZES = (128, 256, 512)


@dataclass
class DryRun:
    """What was seen.

    Args:
        taps: Path -> tap, of the modules that ran.
        failure: Why the forward pass broke off before all of them ran.
        idle: Paths that did not run though it came to its end.
        size: Side of the images in pixels.
        again: Does the pass that found it once more, on other images. Takes
            ``with_grad``, whether what is recorded leads back to the inputs, and
            ``memory_format`` of the inputs.
    """

    taps: dict[str, Tap] = field(default_factory=dict)
    failure: str | None = None
    idle: list[str] = field(default_factory=list)
    size: int = 0
    again: Callable[..., DryRun] | None = None


def dry_run(
    model: nn.Module,
    tap_types: Mapping[str, type[Tap]],
    at_least: int = 0,
) -> DryRun:
    """Run a model on two small synthetic images in eval mode.

    BatchNorm buffers and training flags are left as they were; the caller
    preserves the random state.

    Args:
        model: A model with mmengine's interface (``mode='tensor'``).
        tap_types: Path -> how to tap it.
        at_least: Side of the smallest pictures that are tried, in pixels.

    Returns:
        What the taps recorded. A model whose head cannot run on synthetic
        samples is no failure if everything tapped ran before.

    Raises:
        RuntimeError: If a tapped module runs inside gradient checkpointing.

    Example:
        >>> from mmengine.model import BaseModel
        >>> class Toy(BaseModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = nn.Conv2d(3, 8, 1, stride=4)
        ...     def forward(self, inputs, data_samples=None, mode='tensor'):
        ...         return self.body(inputs)
        >>> dry_run(Toy(), {'body': Tap}).taps['body'].value.shape
        torch.Size([2, 8, 32, 32])
    """
    seen = DryRun()
    for size in (size for size in SIZES if size >= at_least):
        seen = _attempt(model, tap_types, size)
        seen.size = size
        if seen.failure is None:
            break
    return seen


def _attempt(
    model: nn.Module,
    tap_types: Mapping[str, type[Tap]],
    size: int,
) -> DryRun:
    seen = DryRun()
    detector: Any = model
    run = functools.partial(_run, model, tap_types, size)
    # Most taps sit in the trunk. Running it alone first spares the second stage of
    # a Mask R-CNN a thousand proposals per image.
    if hasattr(detector, 'extract_feat'):
        # Looked up when it is called: it may be tapped itself.
        trunk = functools.partial(run, lambda x: detector.extract_feat(x))
        seen = trunk()
        if seen.failure is None:
            seen.again = trunk
            return seen
    stop = _once_every_head_ran(tap_types, seen)

    def whole(x: torch.Tensor) -> Any:
        # New ones: two-stage detectors leave proposals in them.
        return model(x, synthetic_samples((size, size)), mode='tensor')

    seen = run(whole, stop)
    counts = {path: tap.count for path, tap in seen.taps.items()}
    seen.again = functools.partial(run, whole, counts)
    return seen


def _once_every_head_ran(
    tap_types: Mapping[str, type[Tap]], trunk: DryRun
) -> dict[str, int] | None:
    """When to stop if only heads are missing, which run once: before the RoIs."""
    if any(
        path not in trunk.taps and not issubclass(kind, HeadView)
        for path, kind in tap_types.items()
    ):
        return None
    return {p: trunk.taps[p].count if p in trunk.taps else 1 for p in tap_types}


def _run(
    model: nn.Module,
    tap_types: Mapping[str, type[Tap]],
    size: int,
    forward: Callable[[torch.Tensor], Any],
    stop_after: Mapping[str, int] | None = None,
    with_grad: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> DryRun:
    inputs = pictures(model, size).contiguous(memory_format=memory_format)
    # A frozen network, the teacher, never checkpoints whatever its config says.
    checkpointed = any(p.requires_grad for p in model.parameters()) and any(
        getattr(module, 'with_cp', False) for module in model.modules()
    )
    taps: dict[str, Tap] = {}
    failure = None
    # Checkpointing shows itself only where gradients are wanted.
    with eval_mode(model), torch.set_grad_enabled(checkpointed or with_grad):
        inputs.requires_grad_(checkpointed or with_grad)
        try:
            with record(model, tap_types, stop_after) as taps:
                for tap in taps.values():
                    tap.module.training = tap.training_outputs
                forward(inputs)
        except Exception as error:
            if 'gradient checkpointing' in str(error):
                raise
            failure = f'{type(error).__name__}: {error}'
    ran = {path: tap for path, tap in taps.items() if tap.count}
    if len(ran) == len(tap_types) or failure:
        return DryRun(ran, None if len(ran) == len(tap_types) else failure)
    idle = [path for path in tap_types if path not in ran]
    names = ', '.join(map(repr, idle))
    return DryRun(ran, f'{names} did not run in the forward pass', idle)


def pictures(model: nn.Module, size: int) -> torch.Tensor:
    """Two pictures of noise as a model takes them, (2, channels, size, size)."""
    parameter = next(model.parameters(), torch.zeros(()))
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    channels = 3 if mean is None else max(mean.numel(), 1)
    # Drawn on the CPU, whose random state is preserved.
    return torch.randn(2, channels, size, size).to(parameter)


def synthetic_samples(size: tuple[int, int], count: int = 2) -> list[BaseDataElement]:
    """Data samples of pictures without content or padding.

    Args:
        size: Height and width in pixels.
        count: Number of pictures.

    Example:
        >>> synthetic_samples((4, 6), 1)[0].img_shape
        (4, 6)
    """
    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    meta: dict[str, Any] = dict.fromkeys(names, size)
    meta.update(scale_factor=(1.0, 1.0))
    return [BaseDataElement(metainfo=dict(meta, img_id=i)) for i in range(count)]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module back where it was."""
    flags = [(module, module.training) for module in model.modules()]
    # Not model.train(): stock ones freeze stages as a side effect.
    for module, _ in flags:
        module.training = False
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
