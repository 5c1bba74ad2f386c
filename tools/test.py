#!/usr/bin/env python
"""Evaluate a checkpoint. Of a distillation config only the student is built.

    python tools/test.py configs/hint/hint_gfl_r50_gfl_r101_1x_coco.py epoch_12.pth
"""

import argparse
import os

from mmkd.cli import add_common_arguments, build_runner, one_sentence_errors, use_tta
from mmkd.config import load_config, student_config, use_data_root
from mmkd.training import default_work_dir


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path, or mmdet::... / mmseg::... / mmkd::...')
    parser.add_argument('checkpoint', help='file or URL')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        cfg = load_config(args.config)
        cfg.merge_from_dict(args.cfg_options)
        cfg = student_config(cfg)
        use_data_root(cfg, os.environ.get('MMKD_DATA'))
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
        cfg.launcher = args.launcher
        cfg.load_from, cfg.resume = args.checkpoint, False
        if args.tta:
            use_tta(cfg)
        runner = build_runner(cfg, args.local_rank)
    runner.test()


if __name__ == '__main__':
    main()
