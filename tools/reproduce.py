#!/usr/bin/env python
"""Do the training runs behind docs/results.md, one at a time, and write the page.

    python tools/reproduce.py               # what is missing, then the page
    python tools/reproduce.py --report      # the page alone

Each finished run adds a json line under docs/results; runs that have one are skipped,
so it can be stopped at any time. A run's own output is in its work directory.
"""

# ruff: noqa: E402
import argparse
import os
import shlex
import sys
import warnings
from pathlib import Path

# One thread that waits without spinning: times are those of one core, and two threads
# on a busy machine take many times as long.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('OMP_NUM_THREADS', '1')

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported

from rich.console import Console

from mmkd.cli import one_sentence_errors
from mmkd.config import config_root
from mmkd.experiments.page import write_page
from mmkd.experiments.plan import TEACHER, Plan, Run, Search, Task
from mmkd.experiments.process import run_training
from mmkd.experiments.results import append_result, read_results, result_of

TRAIN = Path(__file__).with_name('train.py')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--plans', nargs='+', help='names of plans; all if not given')
    parser.add_argument('--stage', help='this stage alone')
    parser.add_argument('--report', action='store_true', help='train nothing')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'))
    parser.add_argument('--results', type=Path, default=Path('docs/results'))
    return parser.parse_args()


def command_of(run: Run) -> list[str]:
    """The command line of a run."""
    options = [f'{key}={value}' for key, value in run.options.items()]
    command = [sys.executable, str(TRAIN), run.config, '--seed', str(run.seed)]
    command += ['--work-dir', str(run.work_dir)]
    return [*command, '--cfg-options', *options] if options else command


def execute(run: Run, task: Task, console: Console) -> dict:
    """Train, showing how far it is."""
    log = run.work_dir / 'log.txt'
    command = command_of(run)
    with console.status('starting') as status:
        returncode, seconds = run_training(command, log, status.update)
    shown = shlex.join(['python', 'tools/train.py', *command[2:]])
    return result_of(run, task, shown, seconds, returncode)


def search(wanted: Search, plan: Plan, console: Console) -> None:
    """Find the sub-network of a row, and train again what is gone before."""
    for run in wanted.runs:
        if not run.checkpoint.is_file():  # its line may be from another machine
            console.print(f'{plan.name}: {run.row}, whose weights are not here')
            execute(run, plan.task, console)
    supernet = wanted.runs[1]
    console.print(f'{plan.name}: search for {wanted.row}', highlight=False)
    told = [f'--{key}={value}' for key, value in wanted.options.items()]
    command = [sys.executable, str(TRAIN.with_name('gan_search.py')), supernet.config]
    command += [str(supernet.checkpoint), '--work-dir', str(wanted.folder), *told]
    command += ['--cfg-options', *(f'{k}={v}' for k, v in supernet.options.items())]
    log = wanted.folder / 'log.txt'
    with console.status('searching') as status:
        returncode, _ = run_training(command, log, status.update)
    if returncode:
        raise RuntimeError(f'nothing was found: see {log}')


def work_through(plan: Plan, path: Path, stage: str | None, console: Console) -> None:
    """Do what is missing; what comes next may depend on it."""
    while True:
        results = read_results(path)
        done = {(r['stage'], r['row'], r['seed']) for r in results}
        runs = [r for r in plan.runs(results) if stage in (None, r.stage)]
        missing = [run for run in runs if run.key not in done]
        if not missing:
            searches = plan.searches(results)
            if not searches or stage is not None:
                return
            search(searches[0], plan, console)
            continue
        # On another machine the teacher's line is there, its weights are not.
        teachers = [r for r in runs if r.row == TEACHER and r.stage == missing[0].stage]
        run = next((r for r in teachers if not r.checkpoint.is_file()), missing[0])
        console.print(
            f'{plan.name}: {run.stage}, {run.row}, seed {run.seed} '
            f'({len(runs) - len(missing) + 1} of {len(runs)})',
            highlight=False,
        )
        result = execute(run, plan.task, console)
        if run.row == TEACHER and 'failure' in result:
            raise RuntimeError(f'no teacher: see {run.work_dir}/log.txt')
        if run.key not in done:
            append_result(path, result)
        main = plan.task.main
        outcome = result.get('failure') or f'{main} {result[main]:.3f}'
        console.print(f'  {outcome}', highlight=False)


def main() -> None:
    args = parse_args()
    console = Console()
    with one_sentence_errors():
        files = sorted((config_root() / '_experiments_').glob('*.py'))
        plans = [Plan(file, args.work_dir) for file in files]
        names = {plan.name for plan in plans}
        unknown = set(args.plans or names) - names
        if unknown:
            raise ValueError(f'plans must be among {sorted(names)}, not {unknown}')
        for plan in plans:
            path = args.results / f'{plan.name}.jsonl'
            if not args.report and plan.name in (args.plans or names):
                work_through(plan, path, args.stage, console)
    page = args.results.parent / 'results.md'
    write_page(plans, args.results, page)
    console.print(f'written: {page}')


if __name__ == '__main__':
    main()
