#!/usr/bin/env python
"""Draw what training runs logged, a panel per value and a line per run.

    python tools/show_curves.py work_dirs/alone work_dirs/distilled \
        --keys bound_rcn_active coco/bbox_mAP --out curves.png
"""

import argparse
from pathlib import Path

from mmkd.cli import one_sentence_errors
from mmkd.experiments.curves import draw_curves


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, help='of the runs')
    parser.add_argument('--keys', nargs='+', help='logged values; all if not given')
    parser.add_argument('--out', type=Path, default=Path('curves.png'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        path = draw_curves(args.work_dirs, args.out, args.keys)
        print(f'written: {path}')


if __name__ == '__main__':
    main()
