#!/usr/bin/env python
"""Try every config family of MMDetection and MMSegmentation, and write the table.

    python tools/coverage.py                       # what is missing, then the page
    python tools/coverage.py mmdet/gfl mmseg/knet  # these folders again
    python tools/coverage.py --report              # the page alone

Each family is trained alone for three steps, then distilled, in a process of its own.
Its result is a json line under docs/results, so the sweep can be stopped at any time.
"""

# ruff: noqa: E402
import argparse
import os
import warnings
from importlib import import_module
from pathlib import Path

# Processes are forked: a thread pool of torch would not come with them.
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmkd.cli import one_sentence_errors
from mmkd.coverage.families import LIBRARIES, families
from mmkd.coverage.page import verdict, write_page
from mmkd.coverage.sweep import sweep
from mmkd.experiments.results import append_result, read_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folders', nargs='*', help='such as mmdet/gfl; all if none')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time')
    parser.add_argument('--limit', type=float, default=600, help='seconds for one')
    parser.add_argument('--report', action='store_true', help='try nothing')
    parser.add_argument(
        '--results', type=Path, default=Path('docs/results/coverage.jsonl')
    )
    parser.add_argument('--page', type=Path, default=Path('docs/coverage.md'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    console = Console()
    with one_sentence_errors():
        if not args.report:
            run(args, console)
        write_page(args.page, read_results(args.results))
        console.print(f'written: {args.page}')


def run(args: argparse.Namespace, console: Console) -> None:
    """Do the trials that have no result yet, or those that were asked for."""
    console.print('reading the shipped configs ...')
    for library in LIBRARIES:  # once, before the processes fork
        import_module(f'{library}.apis')

    done = {line['config'] for line in read_results(args.results)}
    wanted = [
        family
        for library in LIBRARIES
        for family in families(library, args.folders)
        if args.folders or family.config not in done
    ]
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        TextColumn('{task.description}'),
        *columns,
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task('families', total=len(wanted))
        for result in sweep(wanted, args.jobs, args.limit):
            append_result(args.results, result)
            progress.console.print(f'{result["config"]}: {verdict(result)}')
            progress.advance(task)


if __name__ == '__main__':
    main()
