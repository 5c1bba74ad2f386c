#!/usr/bin/env python
"""Search the best sub-network of a trained supernet that a budget allows.

    python tools/gan_search.py CONFIG CHECKPOINT
    python tools/gan_search.py CONFIG CHECKPOINT --milliseconds 12

The config's `search` says by which metric and how long. A search that was stopped goes
on with the same command. Written are a table, a picture, the best one's weights and a
config by which tools/train.py trains it further. One process, on one device.
"""

# ruff: noqa: E402
import argparse
import os
import warnings
from pathlib import Path

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from rich.console import Console

from mmkd.cli import add_config_options, one_sentence_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="of the supernet's run")
    parser.add_argument('checkpoint', help='of that run')
    parser.add_argument('--macs', type=float, help='budget, such as 2.7e9')
    parser.add_argument('--milliseconds', type=float, help='budget, measured here')
    parser.add_argument('--metric', help='by its name in the log')
    parser.add_argument('--work-dir', type=Path, help='work_dirs/<config>_search')
    parser.add_argument(
        '--trust', action='store_true', help='allow the file to run code while loading'
    )
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    console = Console()
    with one_sentence_errors(), console.status('importing the libraries'):
        from mmkd.demo.progress import StageDisplay
        from mmkd.gan.chain_report import on_screen
        from mmkd.gan.searching import search, settings_of
        from mmkd.training import default_work_dir, train_config

        cfg = train_config(args.config, options=args.cfg_options)
        settings = settings_of(
            cfg, macs=args.macs, milliseconds=args.milliseconds, metric=args.metric
        )
        folder = args.work_dir or Path(f'{default_work_dir(args.config)}_search')
    with StageDisplay(console) as display, one_sentence_errors():
        display.start('search')
        found = search(
            cfg, args.checkpoint, settings, folder, display.advance, args.trust
        )
        display.finish(f'best: {"-".join(map(str, found.best))}')
    names = list(found.front[0][2])
    lines = [
        [
            '-'.join(map(str, channels)) + ('*' if channels == found.best else ''),
            *(f'{number:.4g}' for number in (cost, *map(metrics.get, names))),
        ]
        for channels, cost, metrics in found.front
    ]
    console.print(on_screen(['widths', found.unit, *names], lines))
    for path in (found.picture, found.weights, found.config):
        console.print(f'written: {path}', highlight=False, soft_wrap=True)


if __name__ == '__main__':
    main()
