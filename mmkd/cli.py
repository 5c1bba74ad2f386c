"""What the command-line tools share."""

from __future__ import annotations

import copy
import os
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .config import model_scope
from .problems import problems_of

#: Errors whose message is meant for the user; of others the type is told, too.
_FOR_USERS = (ValueError, TypeError, OSError, RuntimeError, KeyError, ImportError)


class SetUp(Hook):
    """Registered to a runner, tells when its set-up is over.

    Attributes:
        is_over: Whether the first batch is next: data, weights and hooks are ready.
    """

    # After whatever else prepares itself there.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.is_over = False

    def _before_epoch(self, runner: Any, mode: str = 'train') -> None:
        self.is_over = True


@contextmanager
def one_sentence_errors() -> Iterator[SetUp]:
    """Turn what a user can get wrong into one sentence each and exit code 2.

    It covers the block, or, where the block registers what this yields to a
    runner, the block up to the first batch: an error in training is a bug and
    keeps its traceback. ``MMKD_TRACEBACK=1`` shows it before that, too.

    Yields:
        The hook.
    """
    set_up = SetUp()
    try:
        yield set_up
    except Exception as error:
        if set_up.is_over or os.environ.get('MMKD_TRACEBACK'):
            raise
        problems = [problem.error for problem in problems_of(error)]
        for one in problems or [error]:
            print(_labelled(one), file=sys.stderr)
        sys.exit(2)


def sentence(error: BaseException) -> str:
    """The message of an error in one line.

    Example:
        >>> sentence(FileNotFoundError(2, 'No such file', 'a.json'))
        'No such file: a.json'
    """
    text: Any = error
    if isinstance(error, KeyError) and error.args:  # str() would quote it
        text = error.args[0]
    elif isinstance(error, OSError) and error.filename and error.strerror:
        text = f'{error.strerror}: {error.filename}'
    text = str(text).strip()
    if text.startswith('Caught ') and 'DataLoader worker' in text:
        text = text.splitlines()[-1]  # the rest is the worker's traceback
    return ' '.join(text.split())


def _labelled(error: Exception) -> str:
    if isinstance(error, _FOR_USERS):
        return f'error: {sentence(error)}'
    kind = type(error).__name__
    return f'error ({kind}; MMKD_TRACEBACK=1 tells where): {sentence(error)}'


class _Options(DictAction):
    """``DictAction`` with an error for what it cannot read."""

    def __call__(self, parser: Any, namespace: Any, values: Any, *args: Any) -> None:
        for value in values:
            try:
                super().__call__(parser, namespace, [value], *args)
            except (ValueError, AssertionError, RecursionError):
                raise ArgumentError(
                    self, f'{value!r} is not KEY=VALUE with numbers, words or [...]'
                ) from None


def add_common_arguments(parser: ArgumentParser) -> None:
    """Arguments of every tool that runs a config."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
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

    Raises:
        ValueError: If the launcher that the config names did not start this.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if cfg.get('launcher') == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch needs torchrun: '
            'torchrun --nproc_per_node=<GPUs> <tool> ... --launcher pytorch'
        )
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def use_tta(cfg: Config) -> Config:
    """Wrap the model of a config for test-time augmentation.

    Args:
        cfg: A stock config; changed. Detectors without ``tta_model`` and
            ``tta_pipeline`` get both pictures, as they are and flipped.

    Returns:
        The same config.

    Raises:
        ValueError: If a config of another library has no such entries.
    """
    dataset: Any = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset and its kind
        dataset = dataset.dataset
    if model_scope(cfg) == 'mmdet':
        cfg.setdefault('tta_model', _detection_tta_model())
        cfg.setdefault('tta_pipeline', _with_flips(dataset.pipeline))
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError(
            '--tta needs tta_model and tta_pipeline, which the config lacks'
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
    return cfg


def _detection_tta_model() -> dict[str, Any]:
    nms = dict(type='nms', iou_threshold=0.5)
    return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))


def _with_flips(pipeline: list) -> list:
    """A test pipeline that yields each picture twice, the second one flipped."""
    *steps, pack = copy.deepcopy(pipeline)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pack['meta_keys'] = (*pack.get('meta_keys', keys), 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
