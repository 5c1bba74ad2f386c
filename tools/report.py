#!/usr/bin/env python
"""Write one HTML page about runs: results, curves, pictures, differences.

python tools/report.py work_dirs/alone work_dirs/distilled
python tools/report.py work_dirs/alone work_dirs/distilled --no-models
"""

import argparse
import warnings
from pathlib import Path

from rich.console import Console

from mmkd.cli import one_sentence_errors
from mmkd.preflight.progress import Stages


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, help='of the runs')
    parser.add_argument(
        '--baseline',
        type=Path,
        metavar='WORK_DIR',
        help='what is compared with; by default the first run without a teacher',
    )
    parser.add_argument(
        '--teacher', help="checkpoint in the place of that in the run's config"
    )
    parser.add_argument(
        '--pictures', type=number, default=12, metavar='N', help='shown; 12 by default'
    )
    parser.add_argument(
        '--images',
        type=number,
        default=1000,
        metavar='N',
        help='validation pictures that are evaluated at most; 1000 by default',
    )
    parser.add_argument(
        '--min-score',
        type=float,
        default=0.3,
        help='score from which a box counts in a picture; 0.3 by default',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; the best by default')
    parser.add_argument(
        '--no-models', action='store_true', help='read the logs only: takes seconds'
    )
    parser.add_argument(
        '--out', type=Path, help='file to write; report.html of the first run if not'
    )
    return parser.parse_args()


def number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main() -> None:
    args = parse_args()
    warnings.filterwarnings('ignore')
    with one_sentence_errors():
        from mmengine.device import get_device

        from mmkd.report.evaluate import Options
        from mmkd.report.page import write_report

        options = Options(
            baseline=args.baseline,
            teacher=args.teacher,
            pictures=args.pictures,
            images=args.images,
            min_score=args.min_score,
            device=args.device or get_device(),
            with_models=not args.no_models,
        )
        out = args.out or args.work_dirs[0] / 'report.html'
        stages = Stages(Console(stderr=True))
        for note in write_report(args.work_dirs, out, options, stages):
            print(f'note: {note}')
        print(f'written: {out} ({out.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    main()
