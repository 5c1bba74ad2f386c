"""What the classes of a student are in a teacher that was trained on other ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .precision import full_precision


class ClassMap:
    """The classes that student and teacher share.

    Scores are compared among these alone. Where every class has a sigmoid those that
    the teacher knows are compared. Of a softmax all classes that are not shared, the
    background among them, add up to one on either side: "none of these". Where one
    side has nothing left, the shares among the known ones are compared.

    Args:
        wanted: What each class of the student, in order, is in the teacher: its index,
            its name as the teacher's checkpoint has it, or ``None`` where the teacher
            does not know it.
        count: How many classes the student has.
        theirs: How many the teacher has.
        names: What they are called, if that is known.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> known = ClassMap(['dog', None], 2, 3, ['cat', 'dog', 'cow'])
        >>> known.ours, known.theirs
        ([0], [1])
        >>> student, teacher = torch.zeros(1, 3), torch.zeros(1, 4)  # background last
        >>> [x.exp() for x in known.alike(student, teacher, False, True)]
        [tensor([[1., 2.]]), tensor([[1., 3.]])]
        >>> known.labels_among(torch.tensor([0, 1, 2]))
        tensor([0, 1, 1])
    """

    def __init__(
        self,
        wanted: Sequence[int | str | None],
        count: int,
        theirs: int,
        names: Sequence[str] | None = None,
    ) -> None:
        indices = {name: index for index, name in enumerate(names or ())}
        found: list[Any] = [indices.get(c, c) for c in wanted]  # type: ignore
        known = [c for c in found if c is not None]
        wrong = [c for c in known if isinstance(c, bool) or c not in range(theirs)]
        if wrong or not known or len(found) != count or len(set(known)) != len(known):
            raise ValueError(
                f'teacher_classes must name {count} different classes, one for each '
                f"of the student's, by name ({', '.join(indices) or 'none stored'}), "
                f'by index below {theirs}, or as None where the teacher does not know '
                f'it, but is {list(wanted)}'
            )
        self.ours = [index for index, c in enumerate(found) if c is not None]
        self.theirs: list[int] = known
        self._found = [-1 if c is None else c for c in found]

    @property
    def is_partial(self) -> bool:
        """Whether the teacher does not know all classes of the student."""
        return len(self.ours) < len(self._found)

    def alike(
        self, student: Tensor, teacher: Tensor, is_sigmoid: bool, has_background: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits of the shared classes, in the student's order.

        Args:
            student: Its logits, (N, K, ...).
            teacher: The teacher's, (N, L, ...).
            is_sigmoid: Whether every logit is a classifier of its own.
            has_background: Whether the last logit is the background's.

        Returns:
            Both as (N, S, ...), or (N, S + 1, ...) with the others in the last.
        """
        sides = [(student, self.ours), (teacher, self.theirs)]
        rests = [_others(x, known) for x, known in sides]
        if is_sigmoid:
            rests = [[x.shape[1] - 1] if has_background else [] for x, _ in sides]
        if not all(rests):
            return student[:, self.ours], teacher[:, self.theirs]
        ours, theirs = (_summed(x, k, rest) for (x, k), rest in zip(sides, rests))
        return ours, theirs

    def has_rest(self, logits: Tensor) -> bool:
        """Whether what :meth:`alike` returned has a column of the others."""
        return logits.shape[1] > len(self.ours)

    def labels_among(self, labels: Tensor) -> Tensor:
        """Classes of the student, (R,), as columns of :meth:`alike`.

        Whatever is not shared, background too, has the column of the others.
        """
        columns = torch.full_like(labels, len(self.ours))
        for column, index in enumerate(self.ours):
            columns[labels == index] = column
        return columns

    def is_known(self, labels: Tensor) -> Tensor:
        """Which of the student's classes, (R,), the teacher knows."""
        return torch.isin(labels, labels.new_tensor(self.ours))

    def their_labels(self, labels: Tensor) -> Tensor:
        """Classes that it knows, (R,), as the teacher counts them."""
        return labels.new_tensor(self._found)[labels]


def class_map_of(
    wanted: Sequence[int | str | None],
    pairs: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str] | None,
) -> ClassMap:
    """The map between the classes of logits that a softmax compares.

    Args:
        wanted: See :class:`ClassMap`.
        pairs: Logits of student and teacher, (N, K, ...) and (N, L, ...).
        names: What the teacher's classes are called, if that is known.

    Raises:
        ValueError: If it is none, or leaves nothing to compare.
    """
    known = ClassMap(wanted, pairs[0][0].shape[1], pairs[0][1].shape[1], names)
    if known.alike(*pairs[0], False, False)[0].shape[1] < 2:
        raise ValueError(
            'teacher_classes must leave two classes to be compared, or one and others '
            f'on both sides, but is {list(wanted)}'
        )
    return known


@full_precision
def _summed(logits: Tensor, known: list[int], rest: list[int]) -> Tensor:
    return torch.cat([logits[:, known], logits[:, rest].logsumexp(1, True)], 1)


def _others(logits: Tensor, known: list[int]) -> list[int]:
    return [c for c in range(logits.shape[1]) if c not in set(known)]
