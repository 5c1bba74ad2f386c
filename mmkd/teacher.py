"""The teacher: a frozen network beside the student, never part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .batch import Batch
from .cache.cached_teacher import cached_teacher
from .dry_run import DryRun, dry_run
from .renormalize import Normalization, Renormalizer
from .rng import preserved_rng
from .taps import Tap, move, record, resolve
from .teacher_loading import load_teacher


class Teacher:
    """A frozen network that is run only as far as the losses need.

    It is no ``nn.Module`` on purpose: held by one, its weights stay out of
    ``parameters()``, ``state_dict()``, DDP and the optimizer. Copies of the
    student (EMA) share it.

    Args:
        model: The network; frozen and put in eval mode here.
        source: Where it came from, for messages.
        device: Where it stays; ``None`` follows the student.
        is_random: Whether no weights were loaded into it.

    Attributes:
        model: The frozen network.
        digest: First 8 hex digits of the SHA-256 of its weights.
    """

    def __init__(
        self,
        model: nn.Module,
        source: str = 'module',
        device: str | torch.device | None = None,
        is_random: bool = False,
    ) -> None:
        # Runner reverts SyncBN of registered modules only.
        model = revert_sync_batchnorm(model)
        model.eval()  # what it returns is None in some stock detectors
        self.model = model.requires_grad_(False)
        self.source = source
        self.is_random = is_random
        _check_finite(self.model, source)
        self.device = _device(device) if device is not None else None
        if self.device is not None:
            self.model.to(self.device)
        self.digest = _digest(self.model)
        self._renormalize: Renormalizer | None = None

    def match_inputs(self, student_preprocessor: nn.Module | None) -> None:
        """Learn how the inputs that it will be given are normalised."""
        self._renormalize = Renormalizer(
            Normalization.of(student_preprocessor),
            Normalization.of(getattr(self.model, 'data_preprocessor', None)),
        )

    @property
    def normalizations(self) -> tuple[Normalization, Normalization] | None:
        """The student's and its own, once :meth:`match_inputs` has seen them."""
        found = self._renormalize
        return (found.student, found.teacher) if found else None

    def apply(self, function: Any) -> None:
        """What ``nn.Module._apply`` does: follow a move or a cast of the student."""
        if self.device is None:
            self.model._apply(function)
            return
        # Its own device is asked for where the student's has no room for it.
        parameter = next(self.model.parameters(), torch.zeros(()))
        self.model.to(function(parameter.new_zeros(1)).dtype)

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        """How the module at a path is tapped.

        Args:
            path: Dotted path of a sub-module.
            tap_of: Function from a module to the :class:`~mmkd.taps.Tap` type it needs.

        Raises:
            ValueError: If there is no such sub-module, or it cannot be tapped.
        """
        return tap_of(resolve(self.model, path))

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        """See :func:`mmkd.dry_run.dry_run`."""
        return dry_run(self.model, tap_types, at_least)

    @torch.no_grad()
    def run(
        self,
        batch: Batch,
        tap_types: Mapping[str, type[Tap]],
        stop_after: Mapping[str, int] | None = None,
    ) -> dict[str, Tap]:
        """Run on a batch until every tap has what it needs.

        ``no_grad`` and not inference mode: inference tensors cannot be saved
        for the student's backward pass.

        Args:
            batch: Inputs as the student gets them.
            tap_types: Path in the teacher -> how to tap it.
            stop_after: Path -> calls after which nothing more is needed.

        Returns:
            Path -> tap with what was recorded.
        """
        inputs = self._renormalize(batch) if self._renormalize else batch.inputs
        if self.device is not None:
            inputs = move(inputs, self.device)
        inputs = self._met(inputs)
        samples = _shallow_copies(batch.data_samples)
        with record(self.model, tap_types, stop_after) as taps:
            heads = [tap.module for tap in taps.values() if tap.training_outputs]
            for head in heads:  # the module alone: its dropout and norms stay in eval
                head.training = True
            try:
                self.model(inputs, samples, mode='tensor')
            finally:
                for head in heads:
                    head.training = False
        if self.device is not None and isinstance(batch.inputs, Tensor):
            for tap in taps.values():
                tap.to(batch.inputs.device)
        return taps

    def _met(self, inputs: Any) -> Any:
        """Inputs that the network can read; it goes to their device.

        A copy of the student that was moved or cast alone may train.
        """
        parameter = next(self.model.parameters(), None)
        if not isinstance(inputs, Tensor) or parameter is None:
            return inputs
        if parameter.device != inputs.device:
            self.model.to(inputs.device)
        return inputs.to(parameter.dtype) if inputs.is_floating_point() else inputs

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self

    def __repr__(self) -> str:
        return f'{type(self.model).__name__} ({self.source}, weights {self.digest})'


def build_teacher(
    teacher: str | Mapping[str, Any] | nn.Module, scope: str | None = None
) -> Teacher:
    """Build a teacher; the random state is left as it was.

    Args:
        teacher: A zoo name (``'mmdet::...'``: config and weights from the stock
            metafile), a config path, a checkpoint that holds its config, a
            network, or ``dict(config=..., checkpoint=..., allow_missing=[...],
            allow_random=False, trust=False, device=None)``.
        scope: Registry scope for a config that names none.

    Returns:
        The frozen teacher.

    Raises:
        ValueError: If the weights are missing or do not fit.
        FileNotFoundError: If a named file does not exist.
        TypeError: If ``teacher`` is none of the above.

    Example:
        >>> teacher = build_teacher(nn.Linear(2, 1))
        >>> teacher.model.training, teacher.model.weight.requires_grad
        (False, False)
    """
    if isinstance(teacher, nn.Module):
        return Teacher(teacher)
    if isinstance(teacher, Mapping) and teacher.get('cache') is not None:
        return cached_teacher(teacher)
    with preserved_rng():
        loaded = load_teacher(teacher, scope)
    return Teacher(*loaded)


def _shallow_copies(samples: Any) -> Any:
    """Data samples whose fields the teacher may set without the student seeing it."""
    if not isinstance(samples, (list, tuple)):
        return samples
    return [s.new() if isinstance(s, BaseDataElement) else s for s in samples]


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition('\n')[0]
        raise ValueError(
            "the teacher's device must be one of this machine, such as 'cpu', or None "
            f'to follow the student, but is {str(name)!r}: {reason}'
        ) from error


def _check_finite(model: nn.Module, source: str) -> None:
    """Refuse weights of a run that diverged: every loss would be NaN."""
    buffers = {key for key, _ in model.named_buffers() if 'running_' not in key}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        # A mask may be infinite on purpose.
        bad = value.isnan() if key in buffers else ~value.isfinite()
        if bad.any():
            raise ValueError(
                f"the teacher's weights must be finite but {key} of {source} holds NaN "
                'or infinity; take a checkpoint from before its training diverged'
            )


def _digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        )
    return sha.hexdigest()[:8]
