#!/usr/bin/env python
"""Look before hours of training: does it all fit, what does it cost, is it right?

    python tools/check.py configs/hint/hint_gfl_r50_gfl_r101_1x_coco.py
    python tools/check.py mmdet::gfl/gfl_r50_fpn_1x_coco.py \
        --teacher mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py --method hint

Of a text encoder that learns layer by layer it shows how near it is to its teacher:

    python tools/check.py configs/mobilebert/mobilebert_minilm_wikitext2.py \
        --checkpoint work_dirs/mobilebert_minilm_wikitext2/iter_2400.pth

Nothing is written. Exit code 0: ready, perhaps with warnings; 1: errors, each one
sentence with a remedy; 2: the command itself makes no sense.
"""

import argparse
import sys

from mmengine.device import get_device

from mmkd.cli import add_config_options, add_run_arguments, one_sentence_errors
from mmkd.config_kind import is_transfer
from mmkd.preflight import check
from mmkd.training import train_config, use_amp


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--seed', type=int, help='seed of every random generator')
    parser.add_argument(
        '--batches',
        type=batches,
        default=5,
        metavar='N|all',
        help='validation batches that the teacher is evaluated on; 5 by default',
    )
    parser.add_argument(
        '--steps',
        type=positive,
        default=5,
        metavar='N',
        help='training steps that are timed, of each kind; 5 by default',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; the best by default')
    parser.add_argument(
        '--checkpoint', help='of a text encoder that is compared with its teacher'
    )
    add_config_options(parser)
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def batches(text: str) -> int | None:
    return None if text == 'all' else positive(text)


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        cfg = train_config(
            args.config, args.teacher, args.method, options=args.cfg_options
        )
        if args.amp:
            use_amp(cfg)
        if args.seed is not None:
            cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
        if is_transfer(cfg):
            # Text encoders need transformers, which nothing else here does.
            from mmkd.text.check import check_text

            batches = args.batches or sys.maxsize
            check_text(cfg, args.checkpoint, args.device or get_device(), batches)
            sys.exit(0)
        findings = check(cfg, args.device, args.batches, args.steps)
    sys.exit(1 if findings.errors else 0)


if __name__ == '__main__':
    main()
