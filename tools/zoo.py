#!/usr/bin/env python
"""Write docs/zoo.md and the metafiles of mim from the configs and their READMEs.

    python tools/zoo.py

Run it when a recipe is added or changed; a test compares what is committed.
"""

# ruff: noqa: E402
import argparse
import warnings
from pathlib import Path

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported

from mmkd.cli import one_sentence_errors
from mmkd.zoo_index import write_index


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repository', type=Path, default=Path('.'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        for path in write_index(args.repository):
            print(path)


if __name__ == '__main__':
    main()
