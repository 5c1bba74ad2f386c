"""A demo: a teacher, a small student alone, and the same student distilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .digits import make_digits
from .progress import StageDisplay
from .runs import ALONE, DISTILLED, TEACHER, DemoRun, Progress, RunResult
from .task import DETECTION, DemoTask


class Demo:
    """The demo's data set and its training runs, each done once.

    Args:
        work_dir: Where the runs are kept.
        task: What is trained.
        options: Overrides of all configs by dotted key.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
    """

    def __init__(
        self,
        work_dir: Path,
        task: DemoTask = DETECTION,
        options: Mapping[str, Any] | None = None,
        num_train: int = 800,
        num_val: int = 200,
    ) -> None:
        self.work_dir = work_dir.resolve()
        self.task = task
        self.sizes = (num_train, num_val)
        self.options = dict(options or {})
        self.teacher = self._run(TEACHER, 0)
        self.data_root = Path(self.teacher.cfg.train_dataloader.dataset.data_root)

    def runs(self, seeds: Sequence[int]) -> list[DemoRun]:
        """The teacher's run, then those of both students for each seed."""
        weights = {'model.teacher.checkpoint': str(self.teacher.checkpoint)}
        runs = [self.teacher]
        for seed in seeds:
            runs.append(self._run(ALONE, seed))
            runs.append(self._run(DISTILLED, seed, weights, self.teacher.fingerprint))
        return runs

    def make_data(self, display: StageDisplay) -> None:
        """Make the data set, unless it is there.

        Args:
            display: Shows progress.

        Raises:
            FileExistsError: If something else is in its place.
        """
        display.start('data set')
        make_digits(self.data_root, *self.sizes, progress=display.advance)
        display.finish(f'in {self.data_root}')

    def execute(self, seeds: Sequence[int], display: StageDisplay) -> list[RunResult]:
        """Do the training runs that are not done yet.

        Args:
            seeds: Seeds of the students; the teacher has seed 0.
            display: Shows progress.

        Returns:
            The teacher's result, then two for each seed.
        """
        results = []
        for run in self.runs(seeds):
            several = len(seeds) > 1 and run is not self.teacher
            display.start(run.name + f', seed {run.seed}' * several)
            note = ', done before' if run.result else ''
            results.append(run.execute(self._reporter(display)))
            display.finish(self._shown(results[-1].score) + note)
        return results

    def _shown(self, score: float | None) -> str:
        digits = self.task.digits
        return '' if score is None else f'{self.task.score} {score:.{digits}f}'

    def _reporter(self, display: StageDisplay) -> Progress:
        def report(done: int, total: int, score: float | None) -> None:
            display.advance(done, total, self._shown(score))

        return report

    def draw(self, seed: int) -> Path:
        """Draw the picture of one seed, all of whose runs are done."""
        runs = {run.name: run for run in self.runs([seed])}
        path = self.work_dir / f'{self.task.name}.png'
        return self.task.draw(runs, self.data_root, path)

    def _run(
        self,
        name: str,
        seed: int,
        options: Mapping[str, Any] | None = None,
        depends_on: str = '',
    ) -> DemoRun:
        slug = name.replace(' ', '-')
        return DemoRun(
            name,
            self.task.configs[name],
            self.task.metrics,
            self.work_dir / f'{slug}-seed{seed}',
            seed,
            {**self.options, **(options or {})},
            f'{self.sizes} {depends_on}',
        )
