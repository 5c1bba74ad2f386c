"""The demo: a teacher, a small student alone, and the same student distilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .digits import make_digits
from .picture import draw_demo
from .progress import StageDisplay
from .runs import ALONE, DISTILLED, TEACHER, DemoRun, RunResult

CONFIGS = {
    TEACHER: 'mmkd::demo/gfl_r18-w48_fpn_digits.py',
    ALONE: 'mmkd::demo/gfl_r18-w8_fpn_digits.py',
    DISTILLED: 'mmkd::demo/hint-cwd_gfl_r18-w8_gfl_r18-w48_digits.py',
}


class Demo:
    """The demo's data set and its training runs, each done once.

    Args:
        work_dir: Where the runs are kept.
        options: Overrides of all configs by dotted key.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
    """

    def __init__(
        self,
        work_dir: Path,
        options: Mapping[str, Any] | None = None,
        num_train: int = 800,
        num_val: int = 200,
    ) -> None:
        self.work_dir = work_dir.resolve()
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
            results.append(run.execute(display.advance))
            display.finish(f'AP {results[-1].ap:.3f}{note}')
        return results

    def draw(self, seed: int) -> Path:
        """Draw the picture of one seed, all of whose runs are done."""
        runs = {run.name: run for run in self.runs([seed])}
        predictions = {name: run.predictions for name, run in runs.items()}
        results = {name: run.result for name, run in runs.items() if run.result}
        return draw_demo(
            self.data_root, predictions, results, self.work_dir / 'demo.png'
        )

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
            CONFIGS[name],
            self.work_dir / f'{slug}-seed{seed}',
            seed,
            {**self.options, **(options or {})},
            f'{self.sizes} {depends_on}',
        )
