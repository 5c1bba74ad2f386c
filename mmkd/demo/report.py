"""The demo's numbers, as a table on the screen and as files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table

from ..experiments.results import mean_std
from .runs import ALONE, DISTILLED, TEACHER, RunResult
from .task import DemoTask


def _columns(task: DemoTask) -> tuple[str, ...]:
    return ('', *task.metrics, 'parameters', 'GFLOPs', 'iterations', 'time')


def table_rows(results: Sequence[RunResult], task: DemoTask) -> list[tuple[str, ...]]:
    """One row per model: both students and the teacher, over all seeds.

    Args:
        results: Of at least one run of each.
        task: What was trained.
    """
    rows: list[tuple[str, ...]] = []
    for name in (ALONE, DISTILLED, TEACHER):
        runs = [result for result in results if result.name == name]
        minutes, seconds = divmod(round(statistics.fmean(r.seconds for r in runs)), 60)
        rows.append(
            (
                name,
                *(
                    mean_std([r.metrics[m] for r in runs], task.digits)
                    for m in task.metrics
                ),
                f'{runs[0].parameters:,}',
                f'{runs[0].gflops:.3f}',
                str(runs[0].iterations),
                f'{minutes}:{seconds:02d}',
            )
        )
    return rows


def paired_difference(results: Sequence[RunResult]) -> list[float]:
    """Score of the distilled student minus that of the student alone, by seed."""
    alone = {r.seed: r.score for r in results if r.name == ALONE}
    distilled = {r.seed: r.score for r in results if r.name == DISTILLED}
    return [distilled[seed] - alone[seed] for seed in sorted(alone)]


def rich_table(results: Sequence[RunResult], task: DemoTask) -> Table:
    """The table that the demo prints."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f'{task.score}: of validation pictures; GFLOPs: multiply-adds of one '
        'picture / 1e9; time: of training, without evaluation',
    )
    for index, column in enumerate(_columns(task)):
        table.add_column(
            column, justify='right' if index else 'left', no_wrap=not index
        )
    for row in table_rows(results, task):
        table.add_row(*row, style='bold' if row[0] == DISTILLED else '')
    return table


def write_report(results: Sequence[RunResult], task: DemoTask, folder: Path) -> None:
    """Write ``<name>.jsonl``, a line per run, and ``<name>.md``, a table.

    Args:
        results: Of the teacher and of both students with each seed.
        task: What was trained.
        folder: Where to write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(result)) for result in results]
    (folder / f'{task.name}.jsonl').write_text('\n'.join(lines) + '\n')
    (folder / f'{task.name}.md').write_text(report_text(results, task))


def report_text(results: Sequence[RunResult], task: DemoTask) -> str:
    """The table over seeds in Markdown, and the difference seed by seed."""
    differences = paired_difference(results)
    seeds = sorted({r.seed for r in results if r.name == ALONE})
    names = _columns(task)
    rules = ('---',) + ('---:',) * (len(names) - 1)
    rows = [names, rules, *table_rows(results, task)]
    table = '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
    by_seed = ', '.join(f'{value:+.{task.digits}f}' for value in differences)
    return f"""# The demo over {len(seeds)} seeds

Made by `{task.command}`: {len(seeds)} seeds ({', '.join(map(str, seeds))}) of both
students, one teacher. Mean ± standard deviation (n - 1) over seeds.

{table}

{task.explained} on the validation pictures after the last iteration. GFLOPs are
multiply-adds of one picture / 1e9. Time is the wall time of training (minutes, seconds)
without evaluation.

Both students train on the same pictures, for the same number of iterations, with the
same schedule, all fixed before the first distilled run. {task.chosen}

{task.score} of the distilled student minus that of the student alone, seed by seed:
{by_seed}; mean ± standard deviation {mean_std(differences, task.digits)}.
"""
