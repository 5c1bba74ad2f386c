#!/usr/bin/env python
"""Measure what a training step with a teacher, or with NetAug, costs.

    python tools/benchmark.py configs/ld/ld_gfl_r18_gfl_r101_1x_coco.py \
        --random-teacher --image-size 320 --batch-size 2 --out work_dirs/benchmark
    python tools/benchmark.py mmdet::gfl/gfl_r50_fpn_1x_coco.py \
        --teacher mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py --method hint --rows '*'
    torchrun --nproc_per_node=2 tools/benchmark.py CONFIG --device cpu

Rows are taken in turn, one step of each in every round: the student alone; the floor,
which is the student plus the stock teacher's forward pass that nothing listens to; mmkd
as configured; mmkd with the teacher's outputs replayed, which leaves its own overhead;
and more with --rows. A config with NetAug has rows for the student that it trains and
for the stock model with the trained weights. A table is printed and written to
OUT/benchmark.md, with every step's seconds in benchmark.jsonl and a picture in
benchmark.png.
"""

import argparse
import logging
import sys
from pathlib import Path

from mmengine.logging import MMLogger

from mmkd.benchmark.rows import DEFAULT, row_names
from mmkd.benchmark.run import VARIABLES, processes, run
from mmkd.benchmark.setting import setting_of
from mmkd.cli import add_config_options, add_run_arguments, one_sentence_errors
from mmkd.training import train_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--image-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help="height and width, or one for both; by default the pipeline's",
    )
    parser.add_argument('--batch-size', type=int, help="by default the config's")
    parser.add_argument('--objects', type=int, default=8, help='in a picture; 8')
    parser.add_argument('--steps', type=int, default=20, help='timed rounds; 20')
    parser.add_argument('--device', help='cpu, cuda, ...; the best by default')
    parser.add_argument(
        '--random-teacher', action='store_true', help='read no checkpoint at all'
    )
    parser.add_argument(
        '--data', action='store_true', help="batches of the config's own loader"
    )
    parser.add_argument('--cache', help="folder of the teacher's cache: one row more")
    parser.add_argument(
        '--rows',
        nargs='+',
        metavar='NAME',
        help=f'shell patterns; by default {"; ".join(DEFAULT)}',
    )
    parser.add_argument(
        '--vary',
        metavar='NAME=VALUE,...',
        help=f'measure for each value of one of: {", ".join(VARIABLES)}',
    )
    parser.add_argument(
        '--profile', action='store_true', help='tell the operators that take the time'
    )
    parser.add_argument('--out', type=Path, help='work_dirs/benchmark/<config>')
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with one_sentence_errors(), processes(args.device) as device:
        cfg = train_config(
            args.config, args.teacher, args.method, options=args.cfg_options
        )
        setting = setting_of(
            cfg,
            Path(args.config.partition('::')[2] or args.config).stem,
            args.image_size,
            args.batch_size,
            args.objects,
            device,
            args.data or bool(args.cache),
            steps=args.steps,
            random_teacher=args.random_teacher,
            cache=args.cache,
        )
        names = row_names(args.rows, setting)
        out = args.out or Path('work_dirs/benchmark') / setting.name
        command = ' '.join(['python tools/benchmark.py', *sys.argv[1:]])
        run(setting, names, out, args.vary, args.profile, command)


if __name__ == '__main__':
    main()
