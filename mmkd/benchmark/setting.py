"""What is measured: a config, the size of its inputs, a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from ..config import is_augmented, is_distilled, model_scope, own_kind, teacher_options
from ..config_kind import refuse_gan
from ..preflight.check import HOW_TO_NAME_A_TEACHER
from ..preflight.networks import input_size
from ..teacher_group import is_group

#: Seed of weights, of inputs, and of what is random in every step.
SEED = 0


@dataclass(frozen=True)
class Setting:
    """One measurement.

    Args:
        cfg: Config of a run with a teacher, with NetAug or with both.
        name: What it is called in tables.
        size: Height and width of the pictures in pixels; ``None`` for those of the
            config's own data.
        batch: Pictures in a batch.
        objects: Labelled objects in a picture; ``None`` for real data and label maps.
        device: Where it all runs.
        steps: Timed steps of every row.
        random_teacher: Whether no checkpoint is read, neither for the teacher nor
            to start the student from.
        cache: Folder of the teacher's cached outputs, if there is one.

    Raises:
        ValueError: If a number is too small, or the config has neither a teacher nor
            NetAug.
    """

    cfg: Config
    name: str
    size: tuple[int, int] | None
    batch: int
    objects: int | None
    device: torch.device
    steps: int = 20
    random_teacher: bool = False
    cache: str | None = None

    def __post_init__(self) -> None:
        if not is_distilled(self.cfg):
            if not is_augmented(self.cfg):
                raise ValueError(HOW_TO_NAME_A_TEACHER)
        elif own_kind(self.cfg.model.teacher):
            raise ValueError(
                'the teacher must be another network to be measured but is the '
                f'student: {self.cfg.model.teacher}'
            )
        elif is_group(self.cfg.model.teacher):
            raise ValueError(
                'one teacher is measured but the config names several; measure a '
                'config with one of them and its losses'
            )
        if self.size is not None and min(self.size) < 32:
            raise ValueError(f'--image-size must be >= 32 pixels but is {self.size}')
        for name, least in (('batch', 1), ('objects', 0), ('steps', 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f'{name} must be >= {least} but is {value}')

    @property
    def teacher(self) -> str | None:
        """Name of the teacher if any: the stem of its config or checkpoint."""
        if not is_distilled(self.cfg):
            return None
        options = teacher_options(self.cfg.model.teacher)
        named = options.get('config') or options.get('checkpoint')
        if not isinstance(named, str):
            named = getattr(named, 'filename', None) or 'config given in place'
        return named.rsplit('/', 1)[-1].removesuffix('.py')

    def record(self) -> dict[str, Any]:
        """What a reader must know to compare it with another one, ready for json."""
        return dict(
            config=self.name,
            teacher=self.teacher,
            losses=sorted(
                k for k, v in (self.cfg.model.get('losses') or {}).items() if v
            ),
            image_size=self.size and list(self.size),
            batch=self.batch,
            objects=self.objects,
            steps=self.steps,
            random_teacher=self.random_teacher,
            device=device_name(self.device),
            torch=str(torch.__version__),
            threads=torch.get_num_threads(),
        )

    @property
    def title(self) -> str:
        """One line: what, on what, where."""
        height, width = self.size or (0, 0)
        inputs = f'{height}x{width} pixels' if self.size else "the config's own data"
        of = f', {self.objects} objects each' if self.objects is not None else ''
        teacher = f' with {self.teacher}' if self.teacher else ''
        return (
            f'{self.name}{teacher}: {self.batch} pictures, {inputs}{of}; '
            f'{device_name(self.device)}, {torch.get_num_threads()} threads, '
            f'torch {torch.__version__}, {self.steps} steps'
        )


def setting_of(
    cfg: Config,
    name: str,
    image_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    objects: int = 8,
    device: str | None = None,
    data: bool = False,
    **others: Any,
) -> Setting:
    """A setting with what is not given taken from the config.

    Args:
        cfg: Config of a distillation run.
        name: What it is called.
        image_size: Height and width, or one number for both; that of the config's
            pipelines if not given.
        batch_size: That of the config's loader if not given.
        objects: Objects in a picture.
        device: ``'cpu'``, ``'cuda'``, ...; the best by default.
        data: Whether batches of the config's own loader are taken.
        others: Of :class:`Setting`.

    Raises:
        ValueError: If the config tells no size and none is given, or is of a GAN.
    """
    refuse_gan(cfg, 'tools/benchmark.py')
    size = tuple(image_size) if image_size else input_size(cfg)
    if data:
        size = None  # whatever the pipelines make of them
    elif size is None:
        raise ValueError('the config tells no size of pictures: give --image-size')
    elif len(size) == 1:
        size = size * 2
    loader: Mapping[str, Any] = cfg.get('train_dataloader') or {}
    return Setting(
        cfg,
        name,
        size,  # type: ignore[arg-type]
        loader.get('batch_size', 2) if batch_size is None else batch_size,
        None if data or model_scope(cfg) == 'mmseg' else objects,
        torch.device(device or get_device()),
        **others,
    )


def device_name(device: torch.device) -> str:
    """Name of a GPU; else the kind of the device."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return device.type.upper()
