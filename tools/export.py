#!/usr/bin/env python
"""Write the student of a checkpoint alone, with its stock config beside it.

python tools/export.py work_dirs/hint_gfl_r50_gfl_r101_1x_coco/epoch_12.pth
"""

import argparse

from mmkd.cli import one_sentence_errors
from mmkd.export import export_student


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a run')
    parser.add_argument(
        '--out', help='file to write; <checkpoint>_student.pth by default'
    )
    parser.add_argument(
        '--config', help='config of the run, where the checkpoint holds none'
    )
    parser.add_argument(
        '--raw', action='store_true', help='the weights before averaging (EMA)'
    )
    parser.add_argument(
        '--trust', action='store_true', help='allow the file to run code while loading'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace files that exist'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        weights, config = export_student(
            args.checkpoint,
            args.out,
            args.raw,
            args.config,
            args.trust,
            args.overwrite,
        )
    print(f'weights: {weights}\nconfig:  {config}')


if __name__ == '__main__':
    main()
