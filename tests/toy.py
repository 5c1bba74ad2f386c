"""A small model, real data and a Runner around both: a run takes a second.

The data are the handwritten digits of scikit-learn, augmented with random numbers
of all three generators; the model has BatchNorm (or GroupNorm) and dropout.
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
import tempfile
from pathlib import Path

import mmengine.config.config as config_module
import mmengine.runner.runner as runner_module
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import nn
from yapf.yapflib import yapf_api

SCANS = torch.from_numpy(load_digits().images * 15).to(torch.uint8)
LABELS = load_digits().target
_numbers = itertools.count()
_folder = tempfile.TemporaryDirectory()

HINT = dict(type='mmkd.FeatureImitationLoss', at='neck')
CWD = dict(type='mmkd.ChannelWiseDivergenceLoss', at='head', teacher_at='head')


def quicken(replace=setattr) -> None:
    """Save nine tenths of a short run: calls of compilers, formatting of configs."""
    replace(runner_module, 'collect_env', dict)
    leave_unformatted(replace)


def leave_unformatted(replace=setattr) -> None:
    """Configs are written as they are: line breaks take most of the time."""
    # mmengine has imported yapf's function by its name, OneDL's imports it when needed.
    for module in (config_module, yapf_api):
        if hasattr(module, 'FormatCode'):
            replace(module, 'FormatCode', lambda text, **style: (text, True))


@pytest.fixture(autouse=True, scope='module')
def short_and_repeatable():
    """Runs are compared bit for bit, so they use one thread; and they are short.

    Applies to the test files that import it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        yield
    torch.set_num_threads(threads)


@DATASETS.register_module(force=True)
class ToyDigits(torch.utils.data.Dataset):
    """Digits as pictures of 3 x 32 x 32, changed at random every time."""

    def __init__(self, start: int = 0, length: int = 16, augment: bool = True) -> None:
        self.start, self.length, self.augment = start, length, augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        scan = SCANS[self.start + index]
        if self.augment:
            scan = scan.roll(random.randint(-1, 1), 0)
            scan = scan.roll(int(np.random.randint(-1, 2)), 1)
            scan = (scan * (0.5 + torch.rand(1) / 2)).to(torch.uint8)
        image = scan.repeat_interleave(4, 0).repeat_interleave(4, 1)
        return dict(
            inputs=image.expand(3, -1, -1), data_samples=int(LABELS[self.start + index])
        )


class _Net(BaseModel):
    def __init__(
        self,
        width: int = 8,
        norm: str = 'BN',
        dropout: float = 0.3,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        normalize = nn.BatchNorm2d(width) if norm == 'BN' else nn.GroupNorm(4, width)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), normalize, nn.ReLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.neck = nn.Conv2d(width, width, 3, 2, 1)
        self.head = nn.Conv2d(width, 10, 1)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.neck(self.dropout(self.backbone(inputs))))


@MODELS.register_module(force=True)
class ToyNet(_Net):
    """Trains through ``forward(mode='loss')``, as MMEngine's own examples."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.logits(inputs)
        if mode == 'tensor':
            return logits
        scores = logits.mean((2, 3))
        if mode == 'predict':
            return list(zip(scores, data_samples))
        target = torch.as_tensor(data_samples, device=scores.device)
        return dict(loss_cls=nn.functional.cross_entropy(scores, target))


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    """Share of right digits, from scores that validation draws noise for."""

    def process(self, data_batch, data_samples):
        self.results += [int(s.argmax()) == t for s, t in data_samples]

    def compute_metrics(self, results):
        # Rises with every validation, so that each checkpoint is the best.
        self.rounds = getattr(self, 'rounds', 0) + 1
        return dict(accuracy=float(np.mean(results)), rounds=self.rounds)


@OPTIM_WRAPPERS.register_module(force=True)
class CpuAmpOptimWrapper(OptimWrapper):
    """``AmpOptimWrapper`` in bfloat16, which MMEngine refuses on a CPU."""

    def optim_context(self, model):
        from contextlib import ExitStack

        stack = ExitStack()
        stack.enter_context(super().optim_context(model))
        stack.enter_context(torch.autocast('cpu', torch.bfloat16))
        return stack


@HOOKS.register_module(force=True)
class LossRecorder(Hook):
    """Keeps what every training iteration logged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append({name: value.item() for name, value in outputs.items()})


@HOOKS.register_module(force=True)
class StopAfter(Hook):
    """Breaks a run off where a power cut would."""

    priority = 'LOWEST'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


def student(**changes) -> dict:
    preprocessor = dict(type='ImgDataPreprocessor', mean=[60] * 3, std=[80] * 3)
    return dict(dict(type='ToyNet', data_preprocessor=preprocessor), **changes)


@functools.cache
def teacher_file(norm: str) -> str:
    """Weights of a wider network, the same in every process."""
    state = torch.get_rng_state()
    torch.manual_seed(7)
    path = Path(_folder.name) / f'{norm}.pth'
    torch.save(ToyNet(width=12, norm=norm).state_dict(), path)
    torch.set_rng_state(state)
    return str(path)


def distilled(losses: dict | None = None, **changes) -> dict:
    """The student with a teacher; by default a hint, which trains an adapter."""
    norm = changes.get('norm', 'BN')
    return dict(
        type='mmkd.Distill',
        student=student(**changes),
        teacher=dict(
            config=dict(model=student(width=12, norm=norm)),
            checkpoint=teacher_file(norm),
        ),
        losses=dict(loss_hint=HINT) if losses is None else losses,
    )


def config(model: dict, work_dir: Path, **changes) -> Config:
    """A run of two epochs of four iterations, validated after each."""
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='ToyDigits'),
    )
    val_loader = copy.deepcopy(loader)
    val_loader['sampler']['shuffle'] = False
    val_loader['dataset'].update(start=500, length=8)
    cfg = Config(
        dict(
            model=model,
            work_dir=str(work_dir),
            experiment_name=f'toy_{next(_numbers)}',
            train_dataloader=loader,
            val_dataloader=val_loader,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            val_cfg=dict(),
            val_evaluator=dict(type='ToyAccuracy'),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
            default_hooks=dict(
                checkpoint=dict(type='mmkd.AtomicCheckpointHook', interval=1),
                distiller_state=dict(type='mmkd.DistillerStateHook'),
                recorder=dict(type='LossRecorder'),
            ),
            randomness=dict(seed=3),
            log_level='ERROR',
        )
    )
    return merge(cfg, changes)


def merge(cfg: Config, changes: dict) -> Config:
    """Change a config by dotted keys; a hook that is ``None`` is taken out."""
    cfg.merge_from_dict(copy.deepcopy(changes))  # it pops `_delete_`
    for name in [name for name, hook in cfg.default_hooks.items() if hook is None]:
        del cfg.default_hooks[name]
    return cfg


def by_iteration(**changes) -> dict:
    """Changes that make a run of eight iterations, a checkpoint after every third."""
    return {
        'train_cfg': dict(by_epoch=False, max_iters=8, val_interval=2, _delete_=True),
        'train_dataloader.sampler.type': 'InfiniteSampler',
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 3,
        **changes,
    }


def make_runner(model: dict, work_dir: Path, **changes) -> Runner:
    return Runner.from_cfg(config(model, work_dir, **changes))


def train(model: dict, work_dir: Path, **changes) -> Runner:
    runner = make_runner(model, work_dir, **changes)
    runner.train()
    # Left to the garbage collector, workers are waited for in vain, 5 s each.
    stream = getattr(runner.train_loop, 'dataloader_iterator', runner.train_dataloader)
    while hasattr(stream, '_iterator'):
        stream = stream._iterator
    if hasattr(stream, '_shutdown_workers'):
        stream._shutdown_workers()
    return runner


def recorded(runner: Runner) -> list[dict[str, float]]:
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, LossRecorder))
    return hook.steps


def load(path: Path) -> dict:
    """A checkpoint that the test wrote itself."""
    return torch.load(path, map_location='cpu', weights_only=False)


def flatten(value, prefix: str = '') -> dict:
    """Nested containers as one dict from path to leaf."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat = {}
    for key, item in items:
        flat.update(flatten(item, f'{prefix}/{key}'))
    return flat


def differences(first, second) -> list[str]:
    """Paths at which two nested containers of tensors are not bit for bit equal."""
    one, other = flatten(first), flatten(second)
    return sorted(one.keys() ^ other.keys()) + [
        path for path in one.keys() & other.keys() if not _equal(one[path], other[path])
    ]


def _equal(one, other) -> bool:
    if isinstance(one, (torch.Tensor, np.ndarray)):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def training_state(runner: Runner) -> dict:
    """Everything that further training depends on, but for random numbers."""
    model = getattr(runner.model, 'module', runner.model)
    return copy.deepcopy(
        dict(
            model=dict(model.named_parameters()),
            buffers=dict(model.named_buffers()),
            optimizer=runner.optim_wrapper.state_dict(),
        )
    )
