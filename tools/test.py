#!/usr/bin/env python
"""Evaluate a checkpoint. Of a distillation config only the student is built.

python tools/test.py configs/hint/hint_gfl_r50_gfl_r101_1x_coco.py epoch_12.pth
"""

import argparse

from mmkd.cli import add_common_arguments, build_runner, one_sentence_errors, use_tta
from mmkd.processes import leave_processes
from mmkd.training import evaluation_config


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
    with one_sentence_errors() as set_up:
        cfg = evaluation_config(
            args.config, args.checkpoint, args.cfg_options, args.work_dir
        )
        cfg.launcher = args.launcher
        if args.tta:
            use_tta(cfg)
        # The work directory may be that of the training, with its config.
        runner = build_runner(cfg, args.local_rank, writes_config=False)
        set_up.weights_must_fit = True
        runner.register_hook(set_up)
        runner.test()


if __name__ == '__main__':
    main()
    leave_processes()
