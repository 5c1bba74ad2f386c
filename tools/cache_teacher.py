#!/usr/bin/env python
"""Ask the teacher once about every view of every image, for trainings without it.

    python tools/cache_teacher.py configs/ld/ld_gfl_r18_gfl_r101_1x_coco.py \
        --cache data/caches/ld_gfl_r101
    python tools/train.py configs/ld/ld_gfl_r18_gfl_r101_1x_coco.py \
        --cache data/caches/ld_gfl_r101

Started again it goes on where it was broken off. torchrun splits the work.
"""

import argparse

from mmkd.cache.build import CacheBuilder
from mmkd.cache.progress import shown
from mmkd.cli import add_config_options, add_run_arguments, one_sentence_errors
from mmkd.training import train_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--cache', required=True, help='folder, or address of object storage'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; the best by default')
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        cfg = train_config(
            args.config, args.teacher, args.method, options=args.cfg_options
        )
        builder = CacheBuilder(cfg, args.cache, args.device)
        with shown(builder.images) as advance:
            written = builder.build(advance)
    print(f'{args.cache} is complete for this process: {written} files written')


if __name__ == '__main__':
    main()
