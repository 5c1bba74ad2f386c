#!/usr/bin/env python
"""Search the weights of a config's losses on short trainings.

    python tools/tune.py configs/ld/ld_gfl_r50_gfl_r101_1x_coco.py --length 2

Every trial trains for --length epochs (or iterations, where the config counts them)
with each weight times a factor between 1/SPAN and SPAN; the first one has the config's
own weights. Optuna's TPE chooses the factors. A search can be stopped at any time: the
same command goes on. Differences that other seeds would make, too, mean nothing: give
several --seeds. The best weights are printed as --cfg-options.
"""

# ruff: noqa: E402
import argparse
import os
import warnings
from pathlib import Path

warnings.filterwarnings('ignore')  # of the host libraries, while they are imported

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mmkd.cli import one_sentence_errors
from mmkd.config import method_names
from mmkd.experiments.tuning import Search, draw_search, study_of, tune
from mmkd.training import train_config

TRAIN = Path(__file__).with_name('train.py')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path, or mmdet::... / mmseg::... / mmkd::...')
    parser.add_argument('--teacher', help='for a stock config: zoo name or path')
    parser.add_argument('--method', choices=method_names(), help='its losses')
    parser.add_argument('--trials', type=int, default=20, help='with a result')
    parser.add_argument('--length', type=int, required=True, help='of a trial')
    parser.add_argument('--terms', nargs='+', metavar='LOSS', help='all by default')
    parser.add_argument('--span', type=float, default=10.0, help='of the factors')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='per trial')
    parser.add_argument('--metric', help='to be large; the main one by default')
    parser.add_argument('--work-dir', type=Path, help='work_dirs/tune_<config>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', default={}
    )
    return parser.parse_args()


def search_of(args: argparse.Namespace) -> Search:
    own = ['--teacher', args.teacher] if args.teacher else []
    own += ['--method', args.method] if args.method else []
    cfg = train_config(args.config, args.teacher, args.method, options=args.cfg_options)
    folder = args.work_dir or Path('work_dirs') / f'tune_{Path(cfg.work_dir).name}'
    # An overridden config is a file of its own: --cfg-options carries the trial's.
    config = args.config
    if args.cfg_options:
        folder.mkdir(parents=True, exist_ok=True)
        config, own = str(folder / 'config.py'), []
        cfg.dump(config)
    return Search(
        [str(TRAIN), config, *own],
        cfg,
        folder,
        args.length,
        args.seeds,
        args.span,
        args.terms,
        args.metric,
    )


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn('trials'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn('{task.fields[told]}'),
        console=console,
    )


def table_of(search: Search, study: object) -> Table:
    """The trials, best first."""
    table = Table('trial', *search.weights, search.metric or 'metric')
    trials = study.trials  # type: ignore[attr-defined]
    done = [trial for trial in trials if trial.value is not None]
    for trial in sorted(done, key=lambda trial: -trial.value):
        weights = [f'{value:g}' for value in search.options(trial.params).values()]
        name = '0 (the config)' if trial.number == 0 else str(trial.number)
        table.add_row(name, *weights, f'{trial.value:.4g}')
    for trial in trials:
        failure = trial.user_attrs.get('failure')
        if failure:
            weights = [f'{value:g}' for value in search.options(trial.params).values()]
            table.add_row(str(trial.number), *weights, f'failed: {failure}')
    return table


def main() -> None:
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    args = parse_args()
    console = Console()
    with one_sentence_errors():
        search = search_of(args)
        study = study_of(search)
        done = sum(trial.value is not None for trial in study.trials)
        with progress_bar(console) as progress:
            task = progress.add_task('', total=args.trials, completed=done, told='')
            tune(
                search,
                study,
                args.trials,
                lambda text: progress.update(task, told=text),
                lambda number, value: progress.advance(task, value is not None),
            )
        console.print(table_of(search, study))
        path = draw_search(search, study, search.folder / 'search.png')
        best = search.options(study.best_trial.params)
        shown = ' '.join(f'{key}={value:g}' for key, value in best.items())
        console.print(f'written: {path}', highlight=False)
        print(f'best: --cfg-options {shown}')


if __name__ == '__main__':
    main()
