#!/usr/bin/env python
"""Train a config, with its teacher or one named here.

    python tools/train.py configs/hint/hint_gfl_r50_gfl_r101_1x_coco.py
    python tools/train.py mmdet::gfl/gfl_r50_fpn_1x_coco.py \
        --teacher mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py --method hint
"""

import argparse

from mmkd.cli import (
    add_common_arguments,
    add_run_arguments,
    build_runner,
    one_sentence_errors,
)
from mmkd.preflight import announce
from mmkd.processes import leave_processes
from mmkd.training import (
    resume_from,
    train_config,
    use_amp,
    use_auto_scale_lr,
    write_student_config,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--no-distill', action='store_true', help="the same config's plain baseline"
    )
    parser.add_argument(
        '--cache', help='what tools/cache_teacher.py made, in place of the teacher'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue the newest checkpoint of the work directory, or the named one',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--seed', type=int, help='seed of every random generator')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size over all GPUs',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors() as set_up:
        cfg = train_config(
            args.config,
            args.teacher,
            args.method,
            not args.no_distill,
            args.cfg_options,
            args.work_dir,
            args.cache,
        )
        cfg.launcher = args.launcher
        if args.amp:
            use_amp(cfg)
        if args.auto_scale_lr:
            use_auto_scale_lr(cfg)
        if args.seed is not None:
            cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
        if args.resume:
            resume_from(cfg, args.resume)
            set_up.weights_must_fit = True
        runner = build_runner(cfg, args.local_rank, writes_config=False)
        # What an earlier run left there stays until this one works.
        set_up.then = lambda: (runner.dump_config(), write_student_config(cfg))
        runner.register_hook(set_up)
        announce(runner)
        runner.train()


if __name__ == '__main__':
    main()
    leave_processes()
