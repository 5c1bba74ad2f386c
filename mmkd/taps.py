"""Taps: what a sub-module computed, recorded while the model runs anyway."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .nested import copied, each, move, patched, tensors_of
from .recording import is_recording


class StopForward(Exception):
    """Raised inside a forward pass once every tap has what it needs."""


@dataclass
class Call:
    """One call of an intercepted method."""

    args: tuple
    kwargs: dict
    output: Any


class Tap:
    """Records the calls of one sub-module.

    Subclasses (the head views of the leaves) intercept more methods and give
    what they recorded names.

    Args:
        path: Dotted path of the module, for messages.
        module: The module to watch.
        model: The model that it is part of.

    Attributes:
        calls: Method -> its calls in order.
    """

    #: Methods whose calls are recorded. Those of the first one are counted.
    methods: tuple[str, ...] = ('forward',)
    #: Those whose arguments are kept, too. Others would hold what the module was
    #: given, such as the backbone's features behind a neck's, in memory.
    keeps_arguments: tuple[str, ...] = ()
    #: Fields that were computed; ``None`` for all.
    computed: frozenset[str] | None = None
    #: Whether the module itself, not its children, must be in training mode to
    #: return what it returns in training (many heads post-process in eval).
    training_outputs = False

    def __init__(
        self, path: str, module: nn.Module, model: nn.Module | None = None
    ) -> None:
        self.path = path
        # Any: torch types the attributes of modules as tensors or modules.
        self.module: Any = module
        self.model: Any = model
        self.calls: dict[str, list[Call]] = {name: [] for _, name in self.watched}

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes, where it knows them."""
        return (getattr(self.model, 'dataset_meta', None) or {}).get('classes')

    @property
    def watched(self) -> list[tuple[nn.Module, str]]:
        """The methods that are intercepted, and of which modules."""
        return [
            (self.module, name) for name in self.methods if hasattr(self.module, name)
        ]

    def kept(self, name: str, output: Any) -> Any:
        """What is recorded of a method's output.

        Args:
            name: The method.
            output: What it returned.
        """
        # A copy: what follows (`ReLU(inplace=True)`, `out += identity`) may change
        # the tensor, and in the teacher nothing follows the last tap.
        return each(output, copied) if name == 'forward' else output

    def returned(self, name: str, output: Any) -> Any:
        """What the caller of an intercepted method gets: its output."""
        return output

    def tensors(self, fields: Iterable[str] | None = None) -> list[Tensor]:
        """What was recorded, as far as some fields need it.

        Args:
            fields: Names of attributes that are read; ``None`` for all there is.
        """
        return tensors_of(
            [vars(call) for calls in self.calls.values() for call in calls]
        )

    def twin(self, changed: Callable[[Tensor], Tensor] = lambda x: x) -> Tap:
        """Another tap that recorded the same.

        Args:
            changed: Applied to every recorded tensor.
        """
        twin = copy.copy(self)
        for key, value in vars(self).items():
            if isinstance(value, (list, dict)):
                setattr(twin, key, copy.copy(value))
        twin.calls = self._with(lambda value: each(value, changed))
        return twin

    def _with(self, changed: Callable[[Any], Any]) -> dict[str, list[Call]]:
        """What was recorded, with the parts of every call changed."""
        return {
            name: [Call(*map(changed, vars(call).values())) for call in calls]
            for name, calls in self.calls.items()
        }

    def follow(self, student: Tap) -> None:
        """Finish a teacher's tap with what the student computed in this step.

        Args:
            student: The tap on the student's side.
        """

    def to(self, device: torch.device) -> None:
        """Move what was recorded."""
        self.calls = self._with(lambda value: move(value, device))

    @property
    def later(self) -> list[nn.Module]:
        """Modules of the model that :meth:`follow` runs."""
        return []

    @property
    def count(self) -> int:
        """How often the module ran."""
        return len(self.calls[self.methods[0]])

    @property
    def value(self) -> Any:
        """The output; the list of outputs in order if the module ran repeatedly."""
        outputs = [call.output for call in self.calls['forward']]
        return outputs[0] if len(outputs) == 1 else outputs


class HeadView(Tap):
    """A tapped head: what it predicted and what it was taught, by name.

    Losses on plain tensors see its class logits; others use the fields.
    """

    training_outputs = True
    #: The method that returns the head's own losses.
    loss_method = 'loss_by_feat'

    def __init__(
        self, path: str, module: nn.Module, model: nn.Module | None = None
    ) -> None:
        super().__init__(path, module, model)
        #: Factor of the head's own classification losses in this step.
        self.hard_factor = 1.0

    @property
    def value(self) -> HeadView:
        return self

    def returned(self, name: str, output: Any) -> Any:
        if name != self.loss_method or self.hard_factor == 1:
            return output
        return {
            key: each(value, lambda x: x * self.hard_factor)
            if 'loss' in key and 'cls' in key
            else value
            for key, value in output.items()
        }

    @property
    def obstacle(self) -> str | None:
        """Why the head's rows and targets cannot be read; ``None`` if they can."""
        return None

    @property
    def outputs(self) -> Any:
        """What the head's ``forward`` returned in its only call."""
        if self.computed is not None:
            raise RuntimeError(
                f'only {sorted(self.computed)} of {self.path!r} were computed; a loss '
                'that reads all outputs must have reads = None'
            )
        return self._outputs

    @property
    def _outputs(self) -> Any:
        if self.count != 1:
            raise ValueError(f'{self.path!r} must run once but ran {self.count} times')
        return self.calls['forward'][0].output

    def _check_computed(self, field: str) -> None:
        """Raise ``RuntimeError`` if a field was left out."""
        if self.computed is not None and field not in self.computed:
            raise RuntimeError(
                f'{field} of {self.path!r} were not computed: the losses that tap it '
                f'say that they read {sorted(self.computed)}; add {field!r} to the '
                "reads of the loss's class"
            )

    @property
    def logits(self) -> list[Tensor]:
        """Class logits, one tensor of shape (N, A * C, H, W) per level."""
        raise NotImplementedError(f'{type(self).__name__} has no class logits')


def resolve(model: nn.Module, path: str) -> nn.Module:
    """The sub-module at a dotted path.

    Args:
        model: Where to look.
        path: Such as ``'neck'`` or ``'backbone.layer4'``; empty for the model.

    Returns:
        The sub-module.

    Raises:
        ValueError: If there is none, with the nearest name and the children.

    Example:
        >>> resolve(nn.Sequential(nn.ReLU()), '0')
        ReLU()
        >>> resolve(nn.ModuleDict(dict(neck=nn.ReLU())), 'nekc')  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: 'nekc' is not a sub-module of ModuleDict; did you mean 'neck'? ...
    """
    module = model
    walked: list[str] = []
    for name in path.split('.') if path else ():
        # Not named_children(): that gives a shared module under one name only.
        children = {k: v for k, v in module._modules.items() if v is not None}
        if name not in children:
            # A distilled model is known to the user by its stock class.
            name_of_model = type(model).__name__.rpartition('[')[2].rstrip(']')
            where = '.'.join(walked) or name_of_model or type(model).__name__
            hint = nearest(name, children, '.'.join([*walked, '']))
            names = ', '.join(children) or 'no sub-modules'
            raise ValueError(
                f'{path!r} is not a sub-module of {where}{hint} It has: {names}'
            )
        module = children[name]
        walked.append(name)
    return module


def nearest(name: str, known: Iterable[str], prefix: str = '') -> str:
    """What ends the first sentence of a message about an unknown name.

    Args:
        name: The unknown one.
        known: Those that there are.
        prefix: Put before the suggestion.

    Returns:
        A question that suggests the nearest one, or a full stop.

    Example:
        >>> nearest('nekc', ['neck', 'head']), nearest('x', ['neck'])
        ("; did you mean 'neck'?", '.')
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {prefix + close[0]!r}?' if close else '.'


@contextmanager
def record(
    model: nn.Module,
    tap_types: Mapping[str, type[Tap]],
    stop_after: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Tap]]:
    """Record the calls of sub-modules inside a ``with`` block, and nowhere else.

    Bound methods are replaced on the instance for the duration of the block.
    Forward hooks would not do: mmseg calls ``decode_head.forward(x)``, which
    fires none, and a hook that stays is deep-copied with the model by EMA.

    Args:
        model: The model that runs in the block.
        tap_types: Path -> how to tap it.
        stop_after: Path -> number of calls. Once every path has run that often
            the forward pass is abandoned and the block ends quietly.

    Yields:
        Path -> tap.

    Raises:
        ValueError: If a path does not exist.
        RuntimeError: If a tapped module ran inside gradient checkpointing.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> with record(model, {'0': Tap}) as taps:
        ...     y = model(torch.ones(1, 2, 1))
        >>> taps['0'].value.shape
        torch.Size([1, 2, 1])
    """
    taps = {
        path: kind(path, resolve(model, path), model)
        for path, kind in tap_types.items()
    }
    grad_enabled = torch.is_grad_enabled()

    def finished() -> bool:
        return stop_after is not None and all(
            tap.count >= stop_after[path] for path, tap in taps.items()
        )

    def intercept(tap: Tap, module: nn.Module, name: str) -> Any:
        original = getattr(module, name)
        counts = name == tap.methods[0]

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not is_recording():
                return original(*args, **kwargs)
            if grad_enabled and not torch.is_grad_enabled() and counts:
                raise RuntimeError(
                    f'{tap.path!r} runs inside gradient checkpointing, where a tapped '
                    'tensor receives no gradient; tap a module outside of the '
                    'checkpointed block or set with_cp=False'
                )
            output = original(*args, **kwargs)
            given = (args, kwargs) if name in tap.keeps_arguments else ((), {})
            tap.calls[name].append(Call(*given, tap.kept(name, output)))
            if counts and finished():
                raise StopForward
            return tap.returned(name, output)

        return wrapper

    with ExitStack() as stack:
        for tap in taps.values():
            for module, name in tap.watched:
                wrapper = intercept(tap, module, name)
                stack.enter_context(patched({module: wrapper}, name))
        with suppress(StopForward):
            yield taps
