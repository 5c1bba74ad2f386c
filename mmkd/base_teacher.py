"""What a step asks of a teacher, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from .batch import Batch
from .dry_run import DryRun
from .pruning import Reads
from .taps import Tap


class BaseTeacher:
    """A teacher without a network: what is not said otherwise does nothing.

    A subclass has its own :meth:`tap_type`, :meth:`dry_run` and :meth:`run`.

    Attributes:
        model: The network, if it has one of its own.
        device: Where it stays; ``None`` follows the student.
        normalizations: The student's and its own, where they are compared.
        num_parameters: Number of its weights.
        digest: First 8 hex digits of the SHA-256 of its weights.
        source: Where it came from, for messages.
        is_random: Whether no weights were loaded into it.
    """

    #: Whether it is the student in another form, which trains with it.
    is_own = False

    model: Any = None
    device: Any = None
    normalizations: Any = None
    num_parameters = 0
    digest = ''
    source = ''
    is_random = False

    def match_inputs(self, student_preprocessor: nn.Module | None) -> None:
        """Learn how the inputs that it will be given are normalised."""

    @property
    def members(self) -> dict[str, Any]:
        """The one teacher that this is, by an empty name, or those of a group."""
        return {'': self}

    def check_term(self, loss: Any) -> None:
        """Raise ``ValueError`` if a term cannot listen to it.

        Args:
            loss: The :class:`~mmkd.losses.base.DistillLoss`.
        """
        if loss.teacher:
            raise ValueError(
                f'it listens to teacher={loss.teacher!r} but there is one teacher '
                'without a name; leave that out, or name several by '
                'teacher=dict(teachers=dict(...))'
            )

    def apply(self, function: Any) -> None:
        """Follow a move or a cast of the student."""

    def tap_type(self, path: str, tap_of: Callable[[nn.Module], type[Tap]]) -> Any:
        """How the module at a path is tapped.

        Args:
            path: Dotted path of a sub-module.
            tap_of: Function from a module to the :class:`~mmkd.taps.Tap` type it needs.

        Raises:
            ValueError: If there is no such sub-module, or it cannot be tapped.
        """
        raise NotImplementedError(f'{type(self).__name__} must define tap_type()')

    def dry_run(self, tap_types: Mapping[str, type[Tap]], at_least: int = 0) -> DryRun:
        """See :func:`mmkd.dry_run.dry_run`."""
        raise NotImplementedError(f'{type(self).__name__} must define dry_run()')

    def run(
        self,
        batch: Batch,
        tap_types: Mapping[str, type[Tap]],
        stop_after: Mapping[str, int] | None = None,
        reads: Reads | None = None,
    ) -> dict[str, Tap]:
        """Run on a batch until every tap has what it needs.

        Args:
            batch: Inputs as the student gets them.
            tap_types: Path -> how to tap it.
            stop_after: Path -> calls after which nothing more is needed.
            reads: Path -> fields that will be read, of those that :meth:`economize`
                was told; everything if not given.

        Returns:
            Path -> tap with what was recorded, to be read after :meth:`completed`.
        """
        raise NotImplementedError(f'{type(self).__name__} must define run()')

    def economize(self, seen: DryRun, reads: Reads) -> None:
        """Make the passes cheaper, now that it is known what is read of them."""

    def begin(self, student: nn.Module, is_copy: bool = False) -> None:
        """Called at the beginning of every training step.

        Args:
            student: The student.
            is_copy: Whether it is a copy on which a step is tried.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What changed since it was built, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict` when a run is resumed."""

    def recorded_in_student(
        self, tap_types: Mapping[str, type[Tap]]
    ) -> Mapping[str, type[Tap]]:
        """Those of its taps that are recorded in the student's pass.

        Args:
            tap_types: Path -> how to tap it.
        """
        return {}

    def completed(
        self, taps: dict[str, Tap], student: Mapping[str, Tap]
    ) -> dict[str, Tap]:
        """Its taps, ready to be read after the student's pass.

        Args:
            taps: What ``run`` returned.
            student: What was recorded in the student's pass.
        """
        return taps

    def precision(self, inputs: Any, path: str = '') -> Any:
        """Context of the precision in which it computes.

        Args:
            inputs: What it is given.
            path: Of one of its modules, by which a group knows whose.
        """
        return nullcontext()

    def __deepcopy__(self, memo: dict) -> BaseTeacher:
        return self
