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

_COLUMNS = ('', 'AP', 'AP50', 'parameters', 'GFLOPs', 'iterations', 'time')


def table_rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """One row per model: both students and the teacher, over all seeds.

    Args:
        results: Of at least one run of each.
    """
    rows: list[tuple[str, ...]] = []
    for name in (ALONE, DISTILLED, TEACHER):
        runs = [result for result in results if result.name == name]
        minutes, seconds = divmod(round(statistics.fmean(r.seconds for r in runs)), 60)
        rows.append(
            (
                name,
                mean_std([run.ap for run in runs]),
                mean_std([run.ap50 for run in runs]),
                f'{runs[0].parameters:,}',
                f'{runs[0].gflops:.3f}',
                str(runs[0].iterations),
                f'{minutes}:{seconds:02d}',
            )
        )
    return rows


def paired_difference(results: Sequence[RunResult]) -> list[float]:
    """AP of the distilled student minus that of the student alone, by seed."""
    alone = {r.seed: r.ap for r in results if r.name == ALONE}
    distilled = {r.seed: r.ap for r in results if r.name == DISTILLED}
    return [distilled[seed] - alone[seed] for seed in sorted(alone)]


def rich_table(results: Sequence[RunResult]) -> Table:
    """The table that the demo prints."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption='AP: COCO, validation pictures; GFLOPs: multiply-adds of one '
        'picture / 1e9; time: of training, without evaluation',
    )
    for index, column in enumerate(_COLUMNS):
        table.add_column(
            column, justify='right' if index else 'left', no_wrap=not index
        )
    for row in table_rows(results):
        table.add_row(*row, style='bold' if row[0] == DISTILLED else '')
    return table


def write_report(results: Sequence[RunResult], folder: Path) -> None:
    """Write ``demo.jsonl``, a line per run, and ``demo.md``, a table.

    Args:
        results: Of the teacher and of both students with each seed.
        folder: Where to write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(result)) for result in results]
    (folder / 'demo.jsonl').write_text('\n'.join(lines) + '\n')
    (folder / 'demo.md').write_text(report_text(results))


def report_text(results: Sequence[RunResult]) -> str:
    """The table over seeds in Markdown, and the difference seed by seed."""
    differences = paired_difference(results)
    seeds = sorted({r.seed for r in results if r.name == ALONE})
    rows = [_COLUMNS, ('---',) + ('---:',) * (len(_COLUMNS) - 1), *table_rows(results)]
    table = '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
    by_seed = ', '.join(f'{value:+.3f}' for value in differences)
    return f"""# The demo over {len(seeds)} seeds

Made by `make demo-seeds`: {len(seeds)} seeds ({', '.join(map(str, seeds))}) of both
students, one teacher. Mean ± standard deviation (n - 1) over seeds.

{table}

AP is COCO's on the validation pictures after the last iteration. GFLOPs are
multiply-adds of one picture / 1e9. Time is the wall time of training (minutes, seconds)
without evaluation.

Both students train on the same pictures, for the same number of iterations, with the
same schedule, all fixed before the first distilled run. The weights of the distillation
terms were tuned once since, with another seed but on these validation pictures: see
`configs/demo/README.md`.

AP of the distilled student minus AP of the student alone, seed by seed: {by_seed};
mean ± standard deviation {mean_std(differences)}.
"""
