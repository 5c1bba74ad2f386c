"""The teacher: a frozen network beside the student, never part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .base_teacher import BaseTeacher
from .batch import Batch
from .cache.cached_teacher import cached_teacher
from .dry_run import DryRun, dry_run
from .economize import Economized
from .economy import Economy
from .nested import move
from .pruning import Reads
from .renormalize import Normalization, Renormalizer
from .rng import preserved_rng
from .taps import Tap, record, resolve
from .teacher_loading import load_teacher


class Teacher(BaseTeacher):
    """A frozen network that is run only as far as the losses need.

    It is no ``nn.Module`` on purpose: held by one, its weights stay out of
    ``parameters()``, ``state_dict()``, DDP and the optimizer. Copies of the
    student (EMA) share it.

    Args:
        model: The network; frozen and put in eval mode here.
        source: Where it came from, for messages.
        device: Where it stays; ``None`` follows the student.
        is_random: Whether no weights were loaded into it.
        economy: How it saves time; by default it changes nothing of the network.

    Attributes:
        model: The frozen network.
        digest: First 8 hex digits of the SHA-256 of its weights.
        num_parameters: Number of its weights; folding takes some away.
    """

    def __init__(
        self,
        model: nn.Module,
        source: str = 'module',
        device: str | torch.device | None = None,
        is_random: bool = False,
        economy: Economy | None = None,
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
        self.num_parameters = sum(p.numel() for p in self.model.parameters())
        self._renormalize: Renormalizer | None = None
        # A network that was given may be used elsewhere, too.
        self.economy = economy or Economy(fold_norms=False, channels_last=False)
        self._economized: Economized | None = None
        self._unused: set[nn.Module] = set()
        self._format = torch.contiguous_format
        self._stream: Any = None

    def match_inputs(self, student_preprocessor: nn.Module | None) -> None:
        """Learn how the inputs that it will be given are normalised."""
        self._renormalize = Renormalizer(
            Normalization.of(student_preprocessor),
            Normalization.of(getattr(self.model, 'data_preprocessor', None)),
        )

    @property
    def normalizations(self) -> tuple[Normalization, Normalization] | None:  # type: ignore[override]
        """The student's and its own, once :meth:`match_inputs` has seen them."""
        found = self._renormalize
        return (found.student, found.teacher) if found else None

    def apply(self, function: Any) -> None:
        """What ``nn.Module._apply`` does: follow a move or a cast of the student."""
        if self.device is None:
            _apply_except(self.model, function, self._unused)
            return
        # Its own device is asked for where the student's has no room for it.
        if self.economy.dtype is None:
            parameter = next(self.model.parameters(), torch.zeros(()))
            self.model.to(function(parameter.new_zeros(1)).dtype)

    def economize(self, seen: DryRun, reads: Reads) -> None:
        """Make the passes cheaper, now that it is known what is read of them.

        Args:
            seen: Its dry run.
            reads: Path -> fields that may be read.
        """
        done = Economized(self.model, self.economy, seen, reads)
        self._economized, self._unused = done, done.unused

    def use_all(self) -> None:
        """Let the parts that no loss reads follow to the device, too."""
        parameter = next(self._used_parameters(), None)
        if self._unused and parameter is not None:
            dtype = parameter.dtype if self.economy.dtype is None else None
            self.model.to(parameter.device, dtype)
        self._unused = set()

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        return tap_of(resolve(self.model, path))

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        return dry_run(self.model, tap_types, at_least)

    @torch.no_grad()
    def run(
        self,
        batch: Batch,
        tap_types: Mapping[str, type[Tap]],
        stop_after: Mapping[str, int] | None = None,
        reads: Reads | None = None,
    ) -> dict[str, Tap]:
        # Not in inference mode: its tensors cannot be saved for the student's
        # backward pass.
        inputs = self._renormalize(batch) if self._renormalize else batch.inputs
        if self.device is not None:
            inputs = move(inputs, self.device)
        if reads is None:
            self.use_all()
        inputs = self._met(inputs)
        with self._beside(inputs), self.precision(inputs), self._without_idle(reads):
            taps = self._record(inputs, batch.data_samples, tap_types, stop_after)
            if self.device is not None and isinstance(batch.inputs, Tensor):
                for tap in taps.values():
                    tap.to(batch.inputs.device)
        for path, fields in (reads or {}).items():
            taps[path].computed = fields
        return taps

    def precision(self, inputs: Any, path: str = '') -> Any:
        """Context of the precision in which it computes."""
        if not isinstance(inputs, Tensor):
            return nullcontext()
        return self.economy.autocast(self.device or inputs.device)

    def completed(
        self, taps: dict[str, Tap], student: Mapping[str, Tap]
    ) -> dict[str, Tap]:
        """See the base class; a pass on a stream of its own is waited for."""
        if self._stream is None:
            return taps
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        for tap in taps.values():
            for tensor in tap.tensors():
                if tensor.is_cuda:  # so that its memory is not reused too early
                    tensor.record_stream(current)
        return taps

    def _beside(self, inputs: Any) -> Any:
        if not (self.economy.stream and isinstance(inputs, Tensor) and inputs.is_cuda):
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream(inputs.device)
        self._stream.wait_stream(torch.cuda.current_stream(inputs.device))
        inputs.record_stream(self._stream)
        return torch.cuda.stream(self._stream)

    def _without_idle(self, reads: Reads | None) -> Any:
        if reads is None or self._economized is None:
            return nullcontext()
        self._economized.compile(self.model)
        return self._economized.without_idle(reads)

    def _record(
        self,
        inputs: Any,
        samples: Any,
        tap_types: Mapping[str, type[Tap]],
        stop_after: Mapping[str, int] | None,
    ) -> dict[str, Tap]:
        samples = _shallow_copies(samples)
        with record(self.model, tap_types, stop_after) as taps:
            heads = [tap.module for tap in taps.values() if tap.training_outputs]
            for head in heads:  # the module alone: its dropout and norms stay in eval
                head.training = True
            try:
                self.model(inputs, samples, mode='tensor')
            finally:
                for head in heads:
                    head.training = False
        return taps

    def _met(self, inputs: Any) -> Any:
        """Inputs that the network can read; it goes to their device.

        A copy of the student that was moved or cast alone may train.
        """
        parameter = next(self._used_parameters(), None)
        if not isinstance(inputs, Tensor) or parameter is None:
            return inputs
        device = inputs.device
        if parameter.device != device:
            _apply_except(self.model, lambda t: t.to(device), self._unused)
        if inputs.is_floating_point():
            inputs = inputs.to(parameter.dtype)
        if inputs.dim() != 4 or self._economized is None:
            return inputs
        wanted = self._economized.memory_format(inputs)
        if wanted != self._format:
            self.model.to(memory_format=wanted)  # type: ignore[call-overload]
            self._format = wanted
        return inputs.contiguous(memory_format=wanted)

    def _used_parameters(self) -> Iterator[nn.Parameter]:
        for module in self.model.modules():
            if module not in self._unused:
                yield from module.parameters(recurse=False)

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self), _stream=None)

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
            allow_random=False, trust=False, device=None)``, to which the options
            of :class:`~mmkd.economy.Economy` may be added. What is made of the
            student is built by :func:`mmkd.own_teacher.own_teacher`.
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


def _apply_except(module: nn.Module, function: Any, left_out: set[nn.Module]) -> None:
    """``nn.Module._apply`` of all parts but some."""
    for child in module.children():
        if child not in left_out:
            _apply_except(child, function, left_out)
    module._apply(function, recurse=False)


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
