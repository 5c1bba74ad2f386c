"""Which layers learn when."""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = ('auxiliary', 'joint', 'progressive')
#: Rate of layers that had their turn, as in the paper's code.
FINISHED = 0.1


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Args:
        layers: Those that are compared with the teacher's.
        rates: Factor of the learning rate of every layer.
        masked_lm: Whether words are guessed.
        rest: Factor of the learning rate of what is no layer: embeddings and heads.
        apart: Whether a layer learns of its own terms alone, and not of later ones'.
    """

    layers: range
    rates: tuple[float, ...]
    masked_lm: bool
    rest: float
    apart: bool = False


class Schedule:
    """The stages of a training, by iteration.

    Args:
        kind: ``'progressive'``, one layer after the other; ``'joint'``, all at once;
            ``'auxiliary'``, all at once beside the masked language model.
        layers: Number of layers.
        transfer_iters: Iterations of the layers, after which only words are guessed;
            the whole training if ``None``.

    Raises:
        ValueError: If there is no such kind, or the numbers do not fit.

    Example:
        >>> schedule = Schedule('progressive', 3, 30)
        >>> schedule.at(12, 40).layers, schedule.at(12, 40).rates
        (range(0, 2), (0.1, 1.0, 0.0))
        >>> schedule.at(30, 40).masked_lm
        True
    """

    def __init__(self, kind: str, layers: int, transfer_iters: int | None) -> None:
        if kind not in SCHEDULES:
            raise ValueError(f'schedule must be one of {SCHEDULES} but is {kind!r}')
        if transfer_iters is not None:
            if kind == 'auxiliary':
                raise ValueError(
                    "transfer_iters must be None with schedule='auxiliary', which does "
                    f'all at once, but is {transfer_iters}'
                )
            if transfer_iters < 0 or (
                kind == 'progressive' and 0 < transfer_iters < layers
            ):
                raise ValueError(
                    f'transfer_iters must be 0 or at least {layers}, one for every '
                    f'layer, but is {transfer_iters}'
                )
        self.kind = kind
        self.layers = layers
        self.transfer_iters = transfer_iters

    def check(self, max_iters: int) -> None:
        """Refuse a training that is too short.

        Args:
            max_iters: Its iterations.

        Raises:
            ValueError: If some layers, or masked words, would never have their turn.
        """
        least = self.layers if self.kind == 'progressive' else 1
        if self.transfer_iters is not None:
            least = self.transfer_iters + 1  # words have their turn afterwards
        if max_iters < least:
            raise ValueError(
                f'the training must have at least {least} iterations, for every stage '
                f'of its schedule, but has {max_iters}'
            )

    def at(self, iteration: int, max_iters: int) -> Stage:
        """The stage of an iteration.

        Args:
            iteration: Counted from 0.
            max_iters: Of the training.
        """
        layers, ones = range(self.layers), (1.0,) * self.layers
        if self.kind == 'auxiliary':
            return Stage(layers, ones, True, 1.0)
        if self.transfer_iters is not None and iteration >= self.transfer_iters:
            return Stage(range(0), ones, True, 1.0)
        if self.kind == 'joint':
            return Stage(layers, ones, False, 0.0)
        end = max_iters if self.transfer_iters is None else self.transfer_iters
        active = min(iteration * self.layers // end, self.layers - 1)
        rates = [FINISHED] * active + [1.0] + [0.0] * (self.layers - active - 1)
        return Stage(range(active + 1), tuple(rates), False, 0.0, apart=True)
