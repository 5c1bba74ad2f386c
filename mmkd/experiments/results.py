"""Results of runs: one json line each, and tables made of them."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .plan import TEACHER, Plan, Run, Task, length_of

Result = Mapping[str, Any]


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none if there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def append_result(path: Path, result: Result) -> None:
    """Add a line, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        file.write(json.dumps(result) + '\n')
        file.flush()
        os.fsync(file.fileno())


def result_of(
    run: Run, task: Task, command: str, seconds: float, returncode: int
) -> dict:
    """What a finished run gave, from what it logged.

    Args:
        run: The run.
        task: What it is judged by.
        command: How it was started.
        seconds: Its wall time.
        returncode: Of the process; other than 0 it failed.

    Returns:
        Metrics, iterations, seconds of training (iterations times the mean
        logged time) and of the whole process, or the last line of a failure.
    """
    result: dict[str, Any] = dict(
        stage=run.stage, row=run.row, seed=run.seed, command=command
    )
    logged = newest_scalars(run.work_dir)
    if returncode or not logged:
        log = (run.work_dir / 'log.txt').read_text().strip().splitlines()
        return dict(result, failure=log[-1] if log else f'exit code {returncode}')
    evaluations = [line for line in logged if task.metrics[task.main] in line]
    times = [line['time'] for line in logged if 'loss' in line]
    # CocoMetric logs nothing where a model finds nothing.
    last = evaluations[-1] if evaluations else {}
    result.update(
        {name: round(last.get(key, 0.0), 4) for name, key in task.metrics.items()}
    )
    iterations = max(line['iter'] for line in logged if 'loss' in line)
    result.update(
        **(dict(epochs=run.length) if run.unit == 'epoch' else {}),
        iterations=iterations,
        train_seconds=round(statistics.fmean(times) * iterations, 1),
        seconds=round(seconds, 1),
        losses={
            key: round(value, 4)
            for key, value in [line for line in logged if 'loss' in line][-1].items()
            if key not in ('lr', 'data_time', 'time', 'epoch', 'iter', 'step', 'memory')
        },
    )
    return result


def scalar_logs(work_dir: Path) -> list[Path]:
    """The logs of a work directory, one per start of the training, oldest first."""
    return sorted(work_dir.glob('*/vis_data/scalars.json'))


def newest_scalars(work_dir: Path) -> list[dict[str, Any]]:
    """What the newest run of a work directory logged."""
    files = scalar_logs(work_dir)
    if not files:
        return []
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def plan_report(plan: Plan, results: Sequence[Result]) -> str:
    """A plan's tables in Markdown, one per stage; what is missing is pending.

    Args:
        plan: The plan.
        results: Its results so far.
    """
    parts = [f'### {plan.title}', '']
    parts += [plan.note, ''] if plan.note else []
    for stage, settings in plan.stages.items():
        unit = 'epochs' if 'epochs' in settings else 'iterations'
        size = ', {}x{} pixels'.format(*settings.scale) if 'scale' in settings else ''
        parts += [f'**{stage}**: {length_of(settings)} {unit}{size}', '']
        chosen = plan.rows_of(stage, results)
        # Rows that were added since do not take away what is known.
        done = {r['row'] for r in results if r['stage'] == stage}
        rows = [row for row in plan.rows if row in done or row in chosen]
        if not chosen:
            more = 'more rows' if rows else 'its rows'
            parts += [f'Pending: {more} follow from the stage before.', '']
        if not rows:
            continue
        parts += _table(plan, stage, rows, results)
        failures = [r for r in results if r['stage'] == stage and 'failure' in r]
        parts += [
            f'- {r["row"]}, seed {r["seed"]}, failed: `{r["failure"]}`'
            for r in failures
        ]
    return '\n'.join(parts).rstrip() + '\n'


def _table(
    plan: Plan, stage: str, rows: Sequence[str], results: Sequence[Result]
) -> list[str]:
    def done(row: str) -> list[Result]:
        return [
            r
            for r in results
            if r['stage'] == stage and r['row'] == row and 'failure' not in r
        ]

    main, digits = plan.task.main, plan.task.digits
    teacher = done(TEACHER)
    names = ' | '.join(plan.task.metrics)
    lines = [
        f'| | {names} | minus alone, by seed | gap closed | time |',
        '|---|' + '---:|' * (len(plan.task.metrics) + 3),
    ]
    for row in [*rows, TEACHER]:
        runs = done(row)
        seeds = 1 if row == TEACHER else len(plan.seeds_of(row))
        missing = seeds - len(runs)
        if not runs:
            rest = ' |' * (len(plan.task.metrics) + 2)
            lines.append(f'| {row} | pending |{rest}')
            continue
        name = row + (f' ({missing} pending)' if missing else '')
        cells = [name]
        cells += [mean_std([r[m] for r in runs], digits) for m in plan.task.metrics]
        baseline = row if row == TEACHER else plan.baseline_of(row)
        alone = {r['seed']: r[main] for r in done(baseline)}
        gains = [r[main] - alone[r['seed']] for r in runs if r['seed'] in alone]
        if row == baseline or not gains:
            cells += ['', '']
        else:
            cells.append(mean_std(gains, digits, sign='+'))
            gap = teacher[0][main] - statistics.fmean(alone.values()) if teacher else 0
            share = statistics.fmean(gains) / gap if plan.task.sign * gap > 0 else None
            cells.append('' if share is None else f'{share:.0%}')
        minutes = statistics.fmean(r['train_seconds'] for r in runs) / 60
        cells.append(f'{minutes:.1f} min')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return [*lines, '']


def mean_std(values: Sequence[float], digits: int = 3, sign: str = '') -> str:
    """Mean and, of several values, their standard deviation (n - 1).

    Args:
        values: At least one.
        digits: Digits behind the point.
        sign: ``'+'`` shows the mean's sign always, as of differences.

    Example:
        >>> mean_std([0.25]), mean_std([0.1, 0.2, 0.3])
        ('0.250', '0.200 ± 0.100')
        >>> mean_std([0.01, 0.03], sign='+')
        '+0.020 ± 0.014'
    """
    mean = f'{statistics.fmean(values):{sign}.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {statistics.stdev(values):.{digits}f}'
