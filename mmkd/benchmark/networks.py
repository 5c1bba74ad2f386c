"""Students with the same weights, distilled or not, and the stock teacher."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..cache.cached_teacher import CachedTeacher
from ..config import is_augmented, is_distilled, student_config, teacher_options
from ..coverage.samples import dicts
from ..preflight.cost import optimizer_state
from ..preflight.tensor_bytes import held_by
from ..teacher_loading import load_teacher
from .inputs import fit_preprocessor, loader_of
from .setting import SEED, Setting

#: What is said of the teacher's network; other options are economies of mmkd.
_STOCK_OPTIONS = ('config', 'checkpoint', 'allow_missing', 'trust')


@dataclass
class Trainee:
    """A model and what trains it.

    Args:
        model: The model.
        outer: The same in DDP, in a run of several processes.
        optim_wrapper: Its optimizer.
        teacher: The network beside it, whose weights are in memory, too.
    """

    model: Any
    outer: Any
    optim_wrapper: Any
    teacher: nn.Module | None = None

    def step(self, raw: Any, before: Callable[[Any], Any] = lambda data: None) -> Any:
        """A training step, as ``train_step`` does it.

        Args:
            raw: What a data loader yields.
            before: Called with the preprocessed batch ahead of the student.

        Returns:
            Log name -> value.
        """
        data = self.model.data_preprocessor(raw, True)
        before(data)
        with self.optim_wrapper.optim_context(self.outer):
            losses = self.outer(**data, mode='loss')
        total, logs = self.model.parse_losses(losses)
        self.optim_wrapper.update_params(total)
        return logs

    def held(self) -> list[Tensor]:
        """What is in memory between two steps."""
        theirs = [] if self.teacher is None else held_by(self.teacher)
        return held_by(self.model) + optimizer_state(self.optim_wrapper) + theirs


class Networks:
    """Builds what the rows run; what several of them run is built once.

    Args:
        setting: What is measured.
        folder: For the weights of a random teacher, so that all rows have the same.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.stock = student_config(setting.cfg)
        self._folder = folder
        if setting.size is not None:
            fit_preprocessor(self.stock, setting.size)
        if setting.random_teacher:
            for part in dicts(self.stock.model):
                _forget_downloads(part)

    @functools.cached_property
    def student(self) -> Trainee:
        """The stock student alone."""
        model = _built(self.stock.model)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model.init_weights()
        return self.trainee(model)

    @functools.cached_property
    def augmented(self) -> Trainee:
        """The student that NetAug trains, without a teacher."""
        return self.trainee(_built(self._own_student), self._weights())

    @property
    def exported(self) -> Trainee:
        """The stock model with the weights that NetAug's model has."""
        return self.trainee(_built(self.stock.model), self.augmented.model.state_dict())

    @property
    def _own_student(self) -> Any:
        """The student as the config has it, with NetAug if there is any."""
        if not is_augmented(self.setting.cfg):
            return self.stock.model
        model = self.setting.cfg.model
        model = model.student if is_distilled(self.setting.cfg) else model
        return ConfigDict(model, model=self.stock.model)

    @functools.cached_property
    def teacher(self) -> nn.Module:
        """The stock teacher, frozen and otherwise as its config says."""
        model = load_teacher(self.teacher_entry, self._scope)[0]
        model = revert_sync_batchnorm(model).to(self.setting.device)
        model.eval()
        return model.requires_grad_(False)

    @functools.cached_property
    def teacher_entry(self) -> dict[str, Any]:
        """Where the teacher's network and weights come from."""
        options = teacher_options(self.setting.cfg.model.teacher)
        entry = {key: options[key] for key in _STOCK_OPTIONS if key in options}
        if self.setting.random_teacher:
            torch.manual_seed(SEED)
            drawn = dict(config=entry.get('config'), checkpoint=None, allow_random=True)
            model = load_teacher(drawn, self._scope)[0]
            path = self._folder / 'teacher.pth'
            torch.save(dict(state_dict=model.state_dict()), path)
            entry = dict(config=entry.get('config'), checkpoint=str(path))
        return entry

    @functools.cached_property
    def distilled(self) -> Trainee:
        """The distilled model as the config says."""
        return self.distilled_with()

    def distilled_with(self, **options: Any) -> Trainee:
        """The distilled model with other options of the teacher.

        Args:
            options: Keys of the ``teacher`` entry.
        """
        own = teacher_options(self.setting.cfg.model.teacher)
        teacher = {**own, **self.teacher_entry, **options}
        teacher.pop('allow_random', None)
        return self.taught_by(teacher)

    def taught_by(self, teacher: dict[str, Any]) -> Trainee:
        """The distilled model with a ``teacher`` entry of its own.

        Args:
            teacher: See :func:`mmkd.teacher.build_teacher`.
        """
        cfg = copy.deepcopy(self.setting.cfg.model)
        cfg.teacher = None  # else the old entry would be merged into the new one
        cfg.update(student=self._own_student, teacher=teacher)
        model = _built(cfg)
        its = model.distiller.teacher
        if isinstance(its, CachedTeacher):  # a hook of the run does it otherwise
            data = loader_of(self.stock, self.setting.batch).dataset
            its.check_run(self.setting.cfg, data, model)
        trainee = self.trainee(model, self._weights())
        trainee.teacher = its.model
        return trainee

    def trainee(self, model: Any, weights: Any = None) -> Trainee:
        """Move a student to the device and give it the config's optimizer.

        Args:
            model: The student.
            weights: Loaded into it, all of them.
        """
        device = self.setting.device
        if weights is not None:
            model.load_state_dict(weights)
        if device.type != 'cuda' or get_world_size() == 1:
            model = revert_sync_batchnorm(model)
        model.to(device)
        model.train()
        options = copy.deepcopy(self.stock.optim_wrapper)
        options.pop('accumulative_counts', None)
        wrapper = build_optim_wrapper(model, options)
        outer = model
        if get_world_size() > 1:
            outer = MMDistributedDataParallel(
                model,
                device_ids=[device.index] if device.type == 'cuda' else None,
                broadcast_buffers=False,
                find_unused_parameters=self.stock.get('find_unused_parameters', False),
            )
        return Trainee(model, outer, wrapper)

    def _weights(self) -> Any:
        return self.student.model.state_dict()

    @property
    def _scope(self) -> str | None:
        return self.stock.get('default_scope')


def _built(cfg: ConfigDict) -> Any:
    torch.manual_seed(SEED)
    return MODELS.build(copy.deepcopy(cfg))


def _forget_downloads(part: dict) -> None:
    init = part.get('init_cfg')
    inits = init if isinstance(init, (list, tuple)) else [init]
    if any(isinstance(one, dict) and 'checkpoint' in one for one in inits):
        part['init_cfg'] = None
    if isinstance(part.get('pretrained'), str):
        part['pretrained'] = None
