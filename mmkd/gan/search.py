"""Which sub-network of a supernet is the best one that a budget allows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .settings import Channels, Settings, check_budget, check_metric

#: Random draws before widths are made smaller until they fit; fewer where each has to
#: be measured.
_TRIES, _TRIES_BY_TIME = 100, 5


class Journal:
    """What is known of sub-networks, a line each in a file that is only added to.

    Args:
        path: The file; what it has is read.
        about: What the lines belong to, its first line.

    Raises:
        ValueError: If the file belongs to something else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.known: dict[tuple[str, Channels], dict[str, float]] = {}
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [entry for line in lines if (entry := _whole(line)) is not None]
        if found and found[0] != json.loads(json.dumps(about)):
            raise ValueError(
                f'{path} is of another search; name another folder, or remove it'
            )
        for line in found[1:]:
            self.known[line['kind'], tuple(line['channels'])] = line['values']
        if not found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('')
            self._add(about)
        elif len(found) < len(lines):  # the last one was cut off
            self._add({}, '\n')

    def get(
        self,
        kind: str,
        channels: Channels,
        measure: Callable[[Channels], Mapping[str, float]],
    ) -> dict[str, float]:
        """What is known, or else what is measured now.

        Args:
            kind: What of, such as ``'cost'``.
            channels: The sub-network.
            measure: Measures it.
        """
        key = (kind, channels)
        if key not in self.known:
            values = {k: float(v) for k, v in measure(channels).items()}
            self._add(dict(kind=kind, channels=list(channels), values=values))
            self.known[key] = values
        return self.known[key]

    def evaluated(self) -> list[Channels]:
        """Sub-networks that were evaluated, in that order."""
        return [channels for kind, channels in self.known if kind == 'metrics']

    def _add(self, line: Mapping[str, Any], before: str = '') -> None:
        with self.path.open('a') as file:
            file.write(before + (json.dumps(line) + '\n' if line else ''))
            file.flush()
            os.fsync(file.fileno())


def _whole(line: str) -> Any:
    """What a line says; ``None`` if it was cut off."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


class Evolution:
    """Breeds sub-networks under a budget.

    What is drawn follows from the seed and from what was measured, all of which the
    journal has: a search that was stopped goes on where it was.

    Reference:
        Li et al., GAN Compression: Efficient Architectures for Interactive
        Conditional GANs, CVPR 2020, https://arxiv.org/abs/2003.08936

    Args:
        choices: Lists of widths, one for each part.
        settings: See :class:`~mmkd.gan.settings.Settings`.
        cost: Function of the widths that gives what the budget is compared with.
        evaluate: Function of the widths that gives the metrics by name.
        journal: Keeps what they give.

    Example:
        >>> import tempfile
        >>> journal = Journal(Path(tempfile.mkdtemp()) / 'search.jsonl', {})
        >>> search = Evolution(
        ...     [(1, 2, 3, 4)] * 8, Settings('area', macs=20, population=20,
        ...                                  generations=20),
        ...     cost=sum, evaluate=lambda c: dict(area=np.prod(c)), journal=journal)
        >>> best = search.run()
        >>> sum(best) <= 20, int(np.prod(best)) > 500
        (True, True)
    """

    def __init__(
        self,
        choices: Sequence[Sequence[int]],
        settings: Settings,
        cost: Callable[[Channels], float],
        evaluate: Callable[[Channels], Mapping[str, float]],
        journal: Journal,
    ) -> None:
        self.choices = [sorted(part) for part in choices]
        self.settings = settings
        self.journal = journal
        self._cost, self._evaluate = cost, evaluate
        self._rng = np.random.default_rng(settings.seed)
        least = tuple(part[0] for part in self.choices)
        check_budget(least, self.cost(least), settings)

    @property
    def total(self) -> int:
        """Sub-networks that a whole search looks at, some of them twice."""
        s = self.settings
        return s.population * (s.generations + 1)

    def run(
        self, tell: Callable[[int, Channels, float], Any] = lambda *_: None
    ) -> Channels:
        """Search.

        Args:
            tell: Called after each look with the number of looks, and the best so far
                with its metric.

        Returns:
            The best sub-network.

        Raises:
            ValueError: If the metrics have none of the settings' name.
        """
        s = self.settings
        self._rng = np.random.default_rng(s.seed)
        looks, best = 0, None
        children = [self._random() for _ in range(s.population)]
        parents: list[Channels] = []
        for generation in range(s.generations + 1):
            for child in children:
                score = self.score(child)
                looks += 1
                if best is None or self._is_better(score, self.score(best)):
                    best = child
                tell(looks, best, self.score(best))
            if generation == s.generations:
                break
            ranked = sorted(dict.fromkeys((*parents, *children)), key=self._rank)
            parents = ranked[: max(round(s.parents * s.population), 1)]
            mutants = round(s.mutation * s.population)
            children = [self._mutant(parents) for _ in range(mutants)]
            children += [self._crossing(parents) for _ in range(s.population - mutants)]
        assert best is not None
        if np.isnan(self.score(best)):
            raise ValueError(
                f'{self.settings.metric} must be a number for some sub-network, but is '
                f'none for {len(self.journal.evaluated())}: is the supernet trained?'
            )
        return best

    def score(self, channels: Channels) -> float:
        """The metric of a sub-network."""
        found = self.journal.get('metrics', channels, self._evaluate)
        check_metric(found, self.settings)
        return found[self.settings.metric]

    def cost(self, channels: Channels) -> float:
        """What the budget is compared with."""
        if self.settings.macs is not None:
            return self._cost(channels)
        # Another time would be measured after a search was stopped.
        measured = self.journal.get('time', channels, lambda c: dict(ms=self._cost(c)))
        return measured['ms']

    def front(self) -> list[Channels]:
        """Sub-networks than which no cheaper one is as good, the cheapest first."""
        found: list[Channels] = []
        known = [c for c in self.journal.evaluated() if not np.isnan(self.score(c))]
        for channels in sorted(known, key=self.cost):
            if not found or self._is_better(
                self.score(channels), self.score(found[-1])
            ):
                found.append(channels)
        return found

    def _is_better(self, one: float, other: float) -> bool:
        # A metric that is no number is worse than any that is.
        return (
            not np.isnan(one)
            and not self.settings.sign * one <= self.settings.sign * other
        )

    def _rank(self, channels: Channels) -> float:
        score = self.score(channels)
        return np.inf if np.isnan(score) else -self.settings.sign * score

    def _random(self) -> Channels:
        return self._drawn(lambda: tuple(map(self._width, range(len(self.choices)))))

    def _mutant(self, parents: Sequence[Channels]) -> Channels:
        parent = parents[int(self._rng.integers(len(parents)))]

        def draw() -> Channels:
            anew = self._rng.random(len(parent)) < self.settings.mutate_prob
            return tuple(
                self._width(i) if new else width
                for i, (new, width) in enumerate(zip(anew, parent))
            )

        return self._drawn(draw)

    def _crossing(self, parents: Sequence[Channels]) -> Channels:
        one, other = (parents[i] for i in self._rng.integers(len(parents), size=2))

        def draw() -> Channels:
            first = self._rng.random(len(one)) < 0.5
            return tuple(int(x) for x in np.where(first, one, other))

        return self._drawn(draw)

    def _width(self, part: int) -> int:
        return int(self._rng.choice(self.choices[part]))

    def _drawn(self, draw: Callable[[], Channels]) -> Channels:
        """A draw within the budget; under a small one, of a draw made smaller."""
        by_time = self.settings.macs is None
        for _ in range(_TRIES_BY_TIME if by_time else _TRIES):
            channels = draw()
            if self.cost(channels) <= self.settings.budget:
                return channels
        while self.cost(channels) > self.settings.budget:
            places = [i for i, c in enumerate(channels) if c > self.choices[i][0]]
            if not places:  # a time that was measured anew and is longer
                break
            place = places[self._rng.integers(len(places))]
            options = self.choices[place]
            smaller = options[options.index(channels[place]) - 1]
            channels = (*channels[:place], smaller, *channels[place + 1 :])
        return channels
