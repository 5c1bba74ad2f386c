#!/usr/bin/env python
"""Train a teacher, a small student alone, and the same student distilled.

    python tools/demo.py                  # one seed, a table and a picture
    python tools/demo.py --seeds 0 1 2    # both students over three seeds
    python tools/demo.py --task demo_seg  # segmentation in the place of detection
    python tools/demo.py --task demo_gan  # pictures from edges

What is done is kept in the work directory and not done again.
"""

import argparse
import os
import warnings
from pathlib import Path

# Threads that wait without spinning: on a busy machine the demo takes minutes, not
# hours. Read once, when torch is loaded.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from rich.console import Console

from mmkd.cli import one_sentence_errors

TASKS = ('demo', 'demo_seg', 'demo_gan')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--task', choices=TASKS, default='demo')
    parser.add_argument('--work-dir', type=Path, help='work_dirs/<task> if not given')
    parser.add_argument(
        '--results',
        type=Path,
        help='folder for <task>.jsonl and <task>.md; the work directory if not given',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.filterwarnings('ignore')
    console = Console()
    with console.status('importing the libraries'):
        from mmkd.demo.experiment import Demo
        from mmkd.demo.progress import StageDisplay
        from mmkd.demo.report import rich_table, write_report
        from mmkd.demo.task import TASKS as KNOWN
    task = KNOWN[args.task]
    work_dir = args.work_dir or Path('work_dirs') / task.name
    with StageDisplay(console) as display:
        with one_sentence_errors():
            demo = Demo(work_dir, task)
            demo.make_data(display)
        results = demo.execute(args.seeds, display)
    write_report(results, task, args.results or work_dir)
    picture = demo.draw(args.seeds[0])
    console.print(rich_table(results, task))
    console.print(f'picture: {picture}', soft_wrap=True)


if __name__ == '__main__':
    main()
