"""What the command-line tools share."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn what a user can get wrong into one sentence and exit code 2.

    Wrapped around building, never around training: an error in there is a bug
    and keeps its traceback. ``MMKD_TRACEBACK=1`` shows it here, too.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get('MMKD_TRACEBACK'):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        kind = '' if isinstance(error, ValueError) else f' ({type(error).__name__})'
        print(f'error{kind}: {text}', file=sys.stderr)
        sys.exit(2)


def add_common_arguments(parser: ArgumentParser) -> None:
    """Arguments of every tool that runs a config."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='overrides, such as model.losses.loss_hint.loss_weight=2',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes are started',
    )
    # torchrun of old versions passes it; the environment variable is what counts.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def build_runner(cfg: Config, local_rank: int = 0) -> Runner:
    """Build the runner that a config asks for.

    Args:
        cfg: A complete config.
        local_rank: Rank on this machine, where the launcher sets none.

    Returns:
        The runner.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def use_tta(cfg: Config) -> Config:
    """Wrap the model of a config for test-time augmentation.

    Args:
        cfg: A stock config with ``tta_model`` and ``tta_pipeline``; changed.

    Returns:
        The same config.

    Raises:
        ValueError: If the config has no such entries.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError('the config has no tta_model and tta_pipeline')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset: Any = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset and its kind
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
    return cfg
