#!/usr/bin/env python
"""Write the student of a checkpoint alone, with its stock config beside it.

    python tools/export.py work_dirs/hint_gfl_r50_gfl_r101_1x_coco/epoch_12.pth

The text encoder of a run is put into a detector by --detector:

    python tools/export.py CHECKPOINT --detector mmdet::grounding_dino/...

Of a GAN the generator is written, of a supernet one of its sub-networks:

    python tools/export.py CHECKPOINT --channels 24 16 32 16 32 64 16 24
"""

import argparse
from pathlib import Path

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
        '--detector', help='config or zoo name of the detector that gets the encoder'
    )
    parser.add_argument(
        '--detector-checkpoint', help="its weights; the zoo's by default"
    )
    parser.add_argument(
        '--channels', type=int, nargs='+', help="widths of a supernet's sub-network"
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace files that exist'
    )
    return parser.parse_args()


def export(args: argparse.Namespace) -> tuple[Path, Path]:
    told = dict(out=args.out, trust=args.trust, overwrite=args.overwrite)
    if not args.detector and not args.channels:
        return export_student(args.checkpoint, raw=args.raw, config=args.config, **told)
    if args.raw or args.config or (args.detector and args.channels):
        raise ValueError(
            '--raw and --config must not go with --detector or --channels, nor these '
            'with each other: export the student first, and use what is written'
        )
    if args.channels:
        from mmkd.gan.slicing import export_sub_network

        return export_sub_network(args.checkpoint, args.channels, **told)
    # Text encoders need transformers, which nothing else here does.
    from mmkd.text.detector import export_detector

    return export_detector(
        args.checkpoint, args.detector, args.detector_checkpoint, **told
    )


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        weights, config = export(args)
    print(f'weights: {weights}\nconfig:  {config}')


if __name__ == '__main__':
    main()
