"""What the command-line tools share."""

from __future__ import annotations

import copy
import os
import re
import sys
import traceback
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner

from .config import method_names, model_scope
from .config_kind import is_gan
from .data_check import check_class_count, check_labels, classes_of
from .host_errors import explained
from .problems import problems_of
from .taps import nearest
from .teacher_loading import load_contents_strictly

# Python puts a tool's own folder first on its path, where numba, which OneDL's packages
# import, would take tools/coverage.py for the package `coverage`.
_SCRIPTS = Path(sys.path[0] or '.') if sys.path else Path()
if all((_SCRIPTS / name).is_file() for name in ('coverage.py', 'reproduce.py')):
    del sys.path[0]

_PACKAGE = Path(__file__).parent
#: Launcher -> what it sets in the environment, and how it is used.
_LAUNCHERS = dict(
    pytorch=('RANK', 'torchrun: torchrun --nproc_per_node=<GPUs>'),
    slurm=('SLURM_PROCID', 'srun: srun --ntasks=<GPUs>'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun: mpirun -n <GPUs>'),
)
#: Batches whose labels are looked at: a look at large label maps takes milliseconds.
_LOOKS = 200
#: Errors whose message is meant for the user; of others the type is told, too.
_FOR_USERS = (ValueError, TypeError, OSError, RuntimeError, KeyError, ImportError)


class SetUp(Hook):
    """Registered to a runner, tells when its set-up is over.

    It also looks at what a runner does not: whether the weights of a checkpoint and
    the labels of the data fit the model.

    Attributes:
        is_over: Whether the first batch is there: data, weights and hooks are ready.
        weights_must_fit: Whether a checkpoint that is loaded must be the model's.
        then: Called once it is over.
    """

    # After whatever else prepares itself there.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.is_over = False
        self.weights_must_fit = False
        self.then: Callable[[], Any] = lambda: None
        self._looks_at = _LOOKS

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if self.weights_must_fit:
            load_contents_strictly(_bare(runner.model), checkpoint, runner._load_from)

    def before_train(self, runner: Any) -> None:
        data = runner.train_dataloader.dataset
        if 'thing_classes' not in (getattr(data, 'metainfo', None) or {}):
            # Of panoptic data no head has all classes.
            check_class_count(_bare(runner.model), classes_of(data))

    def _before_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = 'train'
    ) -> None:
        if self._looks_at > 0 and mode == 'train' and isinstance(data_batch, dict):
            self._looks_at -= 1
            check_labels(_bare(runner.model), data_batch.get('data_samples'))
        if not self.is_over:
            self.is_over = True
            self.then()


def _bare(model: Any) -> Any:
    """The model inside of DDP and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@contextmanager
def one_sentence_errors() -> Iterator[SetUp]:
    """Turn what a user can get wrong into one sentence each and exit code 2.

    It covers the block, or, where the block registers what this yields to a
    runner, the block up to the first batch: an error in training is a bug and
    keeps its traceback, unless it is a ``ValueError`` that mmkd itself raises.
    ``MMKD_TRACEBACK=1`` shows every traceback.

    Yields:
        The hook.
    """
    set_up = SetUp()
    try:
        yield set_up
    except Exception as error:
        in_training = set_up.is_over and not _is_ours(error)
        if in_training or os.environ.get('MMKD_TRACEBACK'):
            raise
        problems = [problem.error for problem in problems_of(error)]
        for one in problems or [error]:
            print(_labelled(one), file=sys.stderr)
        sys.exit(2)


def _is_ours(error: Exception) -> bool:
    """Whether mmkd raised it on purpose."""
    if not isinstance(error, ValueError):
        return False
    if _of_a_worker(str(error)):  # raised again here, with that traceback as text
        files = re.findall(r'^  File "(.+)", line \d+', str(error), re.MULTILINE)
        return bool(files) and _PACKAGE in Path(files[-1]).parents
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get('__name__', '')).startswith('mmkd.')


def _of_a_worker(text: str) -> bool:
    return text.startswith('Caught ') and 'DataLoader worker' in text


def sentence(error: BaseException) -> str:
    """The message of an error in one line; of bad data, what is to be done.

    Example:
        >>> sentence(FileNotFoundError(2, 'No such file', 'a.json'))
        'No such file: a.json'
    """
    text: Any = explained(error)
    if text is not None:
        return text
    text = error
    if isinstance(error, KeyError) and error.args:  # str() would quote it
        text = error.args[0]
    elif isinstance(error, OSError) and error.filename and error.strerror:
        text = f'{error.strerror}: {error.filename}'
    text = str(text).strip()
    if _of_a_worker(text):
        text = text.splitlines()[-1]  # the rest is the worker's traceback
    return ' '.join(text.split())


def _labelled(error: Exception) -> str:
    if isinstance(error, _FOR_USERS) or explained(error):
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


def add_config_options(
    parser: ArgumentParser,
    name: str = '--cfg-options',
    help: str = 'overrides, such as model.losses.loss_hint.loss_weight=2',
) -> None:
    """``--cfg-options``, or others of the kind."""
    parser.add_argument(
        name, nargs='+', action=_Options, default={}, metavar='KEY=VALUE', help=help
    )


def add_run_arguments(parser: ArgumentParser) -> None:
    """What is trained, and who teaches it."""
    parser.add_argument('config', help='path, or mmdet::... / mmseg::... / mmkd::...')
    parser.add_argument(
        '--teacher', help='zoo name, config or checkpoint of the teacher'
    )
    parser.add_argument(
        '--method', help=f'preset of losses: {", ".join(method_names())}'
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """Arguments of every tool that runs a config."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_config_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes are started',
    )
    # torchrun of old versions passes it; the environment variable is what counts.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def build_runner(
    cfg: Config, local_rank: int = 0, writes_config: bool = True
) -> Runner:
    """Build the runner that a config asks for.

    Args:
        cfg: A complete config.
        local_rank: Rank on this machine, where the launcher sets none.
        writes_config: Whether the config is written into the work directory now, over
            that of an earlier run; else by ``runner.dump_config()``.

    Returns:
        The runner.

    Raises:
        ValueError: If the launcher that the config names did not start this.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    launcher = cfg.get('launcher') or 'none'
    variable, command = _LAUNCHERS.get(launcher, ('PATH', ''))
    if variable not in os.environ:
        raise ValueError(
            f'--launcher {launcher} needs {command} <tool> ... --launcher {launcher}'
        )
    _check_optimizer(cfg)
    kind: Any = RUNNERS.get(cfg.get('runner_type') or 'Runner')
    if writes_config:
        return kind.from_cfg(cfg)
    silent: Any = type(kind.__name__, (kind,), dict(dump_config=lambda self: None))
    runner = silent.from_cfg(cfg)
    runner.__class__ = kind
    return runner


def _check_optimizer(cfg: Config) -> None:
    # mmengine's own error for an unknown one does not name it.
    told = cfg.get('optim_wrapper') or {}
    if is_gan(cfg) and told and 'constructor' not in told:
        raise ValueError(
            'a GAN needs an optimizer for the generator and one for the discriminator: '
            "optim_wrapper=dict(constructor='mmkd.GANOptimWrapperConstructor', "
            f'generator=..., discriminator=...), but optim_wrapper has {sorted(told)}'
        )
    of_networks = {
        f'optim_wrapper.{name}': part
        for name, part in told.items()
        if isinstance(part, Mapping) and 'optimizer' in part
    }
    with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        for path, part in {'optim_wrapper': told, **of_networks}.items():
            kind = (part.get('optimizer') or {}).get('type')
            if isinstance(kind, str) and registry.get(kind) is None:
                raise ValueError(
                    f'{path}.optimizer.type must be an optimizer but is {kind!r}'
                    f'{nearest(kind, OPTIMIZERS.module_dict)}'
                )


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
