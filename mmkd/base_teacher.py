"""What a step asks of a teacher, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from .dry_run import DryRun
from .pruning import Reads
from .taps import Tap


class BaseTeacher:
    """A teacher without a network: what is not said otherwise does nothing.

    A subclass has ``tap_type``, ``dry_run`` and ``run``, as
    :class:`~mmkd.teacher.Teacher` describes them.

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

    def check_taps(self, at: str, teacher_at: str) -> None:
        """Raise ``ValueError`` if a path of it cannot teach one of the student.

        Args:
            at: Path in the student.
            teacher_at: Path in the teacher.
        """

    def apply(self, function: Any) -> None:
        """Follow a move or a cast of the student."""

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

    def precision(self, inputs: Any) -> Any:
        """Context of the precision in which it computes."""
        return nullcontext()

    def __deepcopy__(self, memo: dict) -> BaseTeacher:
        return self
