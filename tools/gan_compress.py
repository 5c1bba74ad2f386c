#!/usr/bin/env python
"""Compress a generator: teacher, supernet, search, fine-tuning, report.

    python tools/gan_compress.py mmkd::gan_compression/...

CONFIG is that of the supernet. Its teacher is trained first if its checkpoint is not
there.
What is done is not done again, and what was stopped goes on: the same command does
both. Every stage has a folder in the work directory, with a config of its own that
tools/train.py takes, too.
"""

# ruff: noqa: E402
import argparse
import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from rich.console import Console

from mmkd.cli import add_config_options, one_sentence_errors

TRAIN = Path(__file__).with_name('train.py')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='of the supernet: path, or mmkd::...')
    parser.add_argument('--work-dir', type=Path, help='work_dirs/<config>_compress')
    parser.add_argument('--gpus', type=int, default=1, help='for the trainings')
    add_config_options(parser)
    add_config_options(parser, '--teacher-options', "overrides of the teacher's config")
    return parser.parse_args()


def command(gpus: int) -> list[str]:
    """What trains a config."""
    if gpus == 1:
        return [sys.executable, str(TRAIN)]
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    return [*torchrun, f'--nproc_per_node={gpus}', str(TRAIN), '--launcher', 'pytorch']


def main() -> None:
    args = parse_args()
    console = Console()
    with one_sentence_errors():
        with console.status('importing the libraries'):
            from mmkd.demo.progress import StageDisplay
            from mmkd.gan.chain import Chain
            from mmkd.gan.chain_report import cells, on_screen, write_report
            from mmkd.training import default_work_dir, train_config

        cfg = train_config(args.config, options=args.cfg_options)
        folder = args.work_dir or Path(f'{default_work_dir(args.config)}_compress')
        chain = Chain(cfg, folder, command(args.gpus), args.teacher_options)
        with StageDisplay(console) as display:
            if chain.trains_teacher:
                wanted = cfg.model.teacher.get('checkpoint')
                if wanted:
                    console.print(f'{wanted} is not there: the teacher is trained')
                display.start('teacher')
            teacher = chain.teacher(display.note)
            if chain.trains_teacher:
                display.finish('done')
            display.start('supernet')
            supernet = chain.supernet(teacher, display.note)
            display.finish('done')
            display.start('search')
            found = chain.search(supernet, display.advance)
            display.finish(f'best: {"-".join(map(str, found.best))}')
            if chain.finetunes:
                display.start('fine-tuning')
            final = chain.finetune(found, display.note)
            if chain.finetunes:
                display.finish('done')
            display.start('report')
            rows = write_report(supernet, found, final, folder)
            display.finish(f'in {folder}')
    console.print(on_screen(*cells(rows)))
    for name in ('report.md', 'report.png', 'generator.pth'):
        console.print(f'written: {folder / name}', highlight=False, soft_wrap=True)


if __name__ == '__main__':
    main()
