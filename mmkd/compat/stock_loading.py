"""Stock OpenMMLab loaders on the safe path of :mod:`mmkd.compat.checkpoint`."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.config import Config

from .checkpoint import TRUST_VARIABLE, fetch, load_file, load_from
from .config_text import parse_config_text
from .config_types import require_registered_types
from .when_imported import when_imported

__all__ = ['install_checkpoint_loading']

#: Set while stock code handles a config text that came out of a checkpoint: what
#: checks the parsed config.
_stored_config: contextvars.ContextVar[Callable[[Config], None] | None] = (
    contextvars.ContextVar('stored_config', default=None)
)


#: Modules of the host libraries -> function that builds a model of a config.
_APIS = {
    'mmdet.apis.inference': 'init_detector',
    'mmseg.apis.inference': 'init_model',
}


def install_checkpoint_loading() -> None:
    """Make mmengine load checkpoints as data; safe to call again.

    Covers what goes through ``mmengine.runner.checkpoint``: ``Runner.resume`` and
    ``load_from``, ``load_checkpoint``, ``init_cfg=dict(type='Pretrained')``, for
    local files, URLs and storage backends. ``torch.load`` itself stays as it is.
    The config text in a checkpoint, which resuming and inferencers execute, is
    parsed instead. ``MMKD_TRUST_CHECKPOINTS=1`` in the environment switches both
    back to running what a file contains.

    Example:
        >>> install_checkpoint_loading()
        >>> from mmengine.runner.checkpoint import CheckpointLoader
        >>> CheckpointLoader.load_checkpoint('absent.pth')
        Traceback (most recent call last):
        FileNotFoundError: absent.pth can not be found.
    """
    from mmengine.infer.infer import BaseInferencer
    from mmengine.runner import FlexibleRunner, Runner, checkpoint

    if isinstance(checkpoint.torch, _Torch):
        return
    checkpoint.torch = _Torch()
    checkpoint.load_url = _load_url
    Config.fromstring = staticmethod(_fromstring(Config.fromstring))
    for owner, name, check in (
        (Runner, 'resume', _only_compared),
        (FlexibleRunner, 'resume', _only_compared),
        (BaseInferencer, '_init_model', _to_be_built),
    ):
        method = getattr(owner, name)
        setattr(owner, name, _handling_stored_config(method, check))
    BaseInferencer._init_model = _of_the_student(BaseInferencer._init_model)
    for name in _APIS:
        if name in sys.modules:
            _take_distilled(sys.modules[name])
        else:
            when_imported(name, _then_take_distilled)


@contextlib.contextmanager
def _then_take_distilled(module: types.ModuleType) -> Iterator[None]:
    yield
    _take_distilled(module)


def _take_distilled(module: types.ModuleType) -> None:
    """Let ``init_detector`` and ``init_model`` take a distillation config."""
    name = _APIS[module.__name__]
    stock = getattr(module, name)

    @functools.wraps(stock)
    def wrapper(config: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(config, (str, os.PathLike)):
            config = Config.fromfile(config)
        return stock(_student_alone(config), *args, **kwargs)

    setattr(module, name, wrapper)
    package = sys.modules.get(module.__name__.rpartition('.')[0])
    if getattr(package, name, None) is stock:  # mmkd was imported later
        setattr(package, name, wrapper)


def _of_the_student(method: Any) -> Any:
    """Let inferencers build the student alone of a distillation config."""

    @functools.wraps(method)
    def wrapper(self: Any, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, _student_alone(cfg), *args, **kwargs)

    return wrapper


class _Torch(types.ModuleType):
    """``torch`` as mmengine's loader sees it: with another ``load``.

    One name in one module reaches every backend, also of forks that wrap
    ``torch.load`` and fall back to full unpickling by themselves.
    """

    def __init__(self) -> None:
        super().__init__('torch')

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(f: Any, map_location: Any = None, **_: Any) -> Any:
        if isinstance(f, (str, os.PathLike)):
            return load_file(f, map_location, trust=_trusting())
        return load_from(f, 'the checkpoint', map_location, trust=_trusting())


def _load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, **_: Any
) -> Any:
    return load_file(fetch(url, model_dir), map_location, trust=_trusting())


def _trusting() -> bool:
    return os.environ.get(TRUST_VARIABLE) == '1'


def _only_compared(cfg: Config) -> Config:
    """Resuming reads the number of GPUs and builds nothing."""
    return cfg


def _to_be_built(cfg: Config) -> Config:
    cfg = _student_alone(cfg)
    require_registered_types(cfg.get('model'))
    return cfg


def _student_alone(cfg: Any) -> Any:
    """The stock model's config of one that is extended for training alone."""
    for key in ('student', 'model'):  # around a teacher's student, around NetAug's
        model: Any = cfg.get('model') or {}
        if key not in model or not str(model.get('type', '')).startswith('mmkd.'):
            continue
        cfg = copy.deepcopy(cfg)
        cfg.model = cfg.model[key]
        if model.get('data_preprocessor') and not cfg.model.get('data_preprocessor'):
            cfg.model.data_preprocessor = model.data_preprocessor
    return cfg


def _fromstring(stock: Callable[[str, str], Config]) -> Callable[[str, str], Config]:
    @functools.wraps(stock)
    def fromstring(cfg_str: str, file_format: str) -> Config:
        check = _stored_config.get()
        if check is None or _trusting():
            return stock(cfg_str, file_format)
        try:
            return check(Config(parse_config_text(cfg_str)))
        except ValueError as error:
            raise ValueError(
                f'the config text in the checkpoint is not executed: {error}; if '
                f'you trust its origin, set {TRUST_VARIABLE}=1'
            ) from None

    return fromstring


def _handling_stored_config(
    method: Callable, check: Callable[[Config], Config]
) -> Callable:
    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        token = _stored_config.set(check)
        try:
            return method(*args, **kwargs)
        finally:
            _stored_config.reset(token)

    return wrapped
