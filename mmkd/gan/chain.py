"""From a config to a compressed generator: teacher, supernet, search, fine-tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS

from ..compat.checkpoint import load_file
from ..config import load_config
from ..config_kind import type_name
from ..experiments.process import run_training
from ..fileio import file_digest, replacing
from ..overrides import merge_options
from ..teacher_loading import state_dict_of
from .searching import OF_SPEED, Found, mark, search, settings_of
from .settings import Settings, check_budget, check_metric
from .slicing import finetuning_of
from .sub_networks import Validation
from .translator import Translator

Tell = Callable[[int, int, str], Any]
Watch = Callable[[str], Any]

#: What of a config says only where things are, or what a run prints.
_INDECISIVE = ('work_dir', 'load_from', 'resume', 'log_level', 'filename', 'launcher')
#: What of a config says how a network is judged, searched and trained further.
_AFTERWARDS = ('val', 'test', 'search', 'finetune', 'visualizer', 'vis_backends')


@dataclass(frozen=True)
class Trained:
    """A network that a stage gave.

    Args:
        config: Of its run: a file, or the config.
        checkpoint: Its weights.
    """

    config: Any
    checkpoint: Path


class Chain:
    """The stages of GAN Compression's "Fast" pipeline, each done once.

    Each has a folder of its own in the work directory, with ``stage.json``, which says
    of what config it is and whether it is done.

    Args:
        cfg: Config of the supernet: a ``mmkd.GANCompression`` whose ``teacher`` has a
            ``config``, which is trained if its ``checkpoint`` is not there. ``search``
            says how sub-networks are chosen (:class:`~mmkd.gan.settings.Settings`);
            ``finetune`` has overrides by dotted key for the training of the chosen
            one, and is ``None`` where that is left out.
        work_dir: Where all is kept.
        train: Command that trains a config: ``tools/train.py``.
        teacher_options: Overrides of the teacher's config by dotted key.

    Raises:
        ValueError: If the model is another one, its ``finetune`` is no such dict, or a
            search cannot be made of it: its metric is not evaluated, or nothing fits
            in its budget.
    """

    def __init__(
        self,
        cfg: Config,
        work_dir: Path,
        train: Sequence[str],
        teacher_options: Mapping[str, Any] | None = None,
    ) -> None:
        kind = type_name(cfg.model)
        generator = type_name(cfg.model.get('generator') or {})
        if (kind, generator) != (
            'mmkd.GANCompression',
            'mmkd.SuperMobileResnetGenerator',
        ):
            raise ValueError(
                'the config must be of a mmkd.GANCompression whose generator is a '
                f'mmkd.SuperMobileResnetGenerator, but is of a {kind} with {generator}'
            )
        self.cfg = cfg
        self.work_dir = work_dir
        self.settings: Settings = settings_of(cfg)
        self._finetuning = finetuning_of(cfg)
        self._train = list(train)
        self._teacher_options = dict(teacher_options or {})
        if not (work_dir / 'supernet').is_dir():
            self._rehearse()

    def _rehearse(self) -> None:
        """Judge the narrowest sub-network as it is, before anything is trained.

        A budget that nothing fits in, a metric that is not evaluated and features that
        cannot be downloaded are told now and not after days.
        """
        supernet: Any = MODELS.build(self.cfg.model.generator)
        least = tuple(min(part) for part in supernet.choices)
        translator = Translator(supernet.extracted(least))
        validation = Validation(self.cfg)
        if self.settings.macs is not None:
            cost = translator.generator.macs(validation.size)
            check_budget(least, cost, self.settings)
        check_metric(validation.metrics(translator.to(get_device())), self.settings)

    @property
    def trains_teacher(self) -> bool:
        """Whether the file with the teacher's weights is not there."""
        entry = self.cfg.model.teacher
        checkpoint = entry.get('checkpoint')
        if not entry.get('config') or entry.get('allow_random'):
            return False
        if not checkpoint:
            return True
        return '://' not in checkpoint and not Path(checkpoint).expanduser().is_file()

    @property
    def finetunes(self) -> bool:
        """Whether the sub-network that is found is trained further."""
        return self._finetuning is not None

    def teacher(self, watch: Watch) -> Trained | None:
        """Train the teacher, if it has no weights.

        Args:
            watch: Called every second with how far it is.

        Returns:
            It; ``None`` if the config names its weights.
        """
        if not self.trains_teacher:
            return None
        cfg = merge_options(
            load_config(self.cfg.model.teacher.config), self._teacher_options
        )
        return self._trained('teacher', cfg, watch)

    def supernet(self, teacher: Trained | None, watch: Watch) -> Trained:
        """Train the supernet.

        Args:
            teacher: What :meth:`teacher` gave.
            watch: See there.
        """
        cfg = Config(self.cfg.to_dict())
        if teacher is not None:
            cfg.model.teacher.config = str(teacher.config.resolve())
            cfg.model.teacher.checkpoint = str(teacher.checkpoint.resolve())
        weights = Path(str(cfg.model.teacher.get('checkpoint'))).expanduser()
        about = file_digest(weights) if weights.is_file() else ''
        return self._trained('supernet', cfg, watch, about)

    def search(self, supernet: Trained, tell: Tell) -> Found:
        """Search, or find again what was found.

        Args:
            supernet: What :meth:`supernet` gave.
            tell: Called with the number of looks, that of all, and the best so far.
        """
        cfg = Config.fromfile(supernet.config)
        stage = Stage(self.work_dir / 'search', cfg, file_digest(supernet.checkpoint))
        found = search(
            cfg, supernet.checkpoint, self.settings, stage.folder, tell, trust=True
        )
        stage.finish()
        return found

    def finetune(self, found: Found, watch: Watch) -> Trained:
        """Train the sub-network that was found further.

        Args:
            found: What :meth:`search` gave.
            watch: See :meth:`teacher`.

        Returns:
            It as it was found, if the config has no fine-tuning.
        """
        if not self.finetunes:
            return Trained(found.config, found.weights)
        cfg = Config.fromfile(found.config)
        # Another budget finds other widths, and what was trained before stays, as it
        # does where the fine-tuning is another.
        widths = '-'.join(map(str, found.best))
        name = f'finetune_{widths}_{mark(self._finetuning)[:8]}'
        return self._trained(name, cfg, watch, _digest(found.weights))

    def _trained(
        self, name: str, cfg: Config, watch: Watch, about: str = ''
    ) -> Trained:
        stage = Stage(self.work_dir / name, cfg, about)
        loop = cfg.train_cfg
        unit = 'epoch' if 'max_epochs' in loop else 'iter'
        done = stage.folder / f'{unit}_{loop[f"max_{unit}s"]}.pth'
        config = stage.folder / 'config.py'
        # How it is judged and searched may be another now.
        with replacing(config) as temporary:
            temporary.write_text(cfg.pretty_text)
        if stage.is_done and done.is_file():
            return Trained(config, done)
        log = stage.folder / 'log.txt'
        told = ['--work-dir', str(stage.folder), '--resume']
        code, _ = run_training([*self._train, str(config), *told], log, watch)
        if code or not done.is_file():
            last = (log.read_text(errors='replace').strip().splitlines() or [''])[-1]
            raise RuntimeError(f'the {name} could not be trained: {last} (see {log})')
        stage.finish()
        return Trained(config, done)


def _digest(path: Path) -> str:
    """Of weights, whatever else their file says."""
    state = state_dict_of(load_file(path, map_location='cpu', trust=True), path)
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(f'{key} {tuple(value.shape)}'.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Stage:
    """A folder that belongs to one config.

    Args:
        folder: It.
        cfg: The config.
        about: What else decides what the stage gives.

    Raises:
        ValueError: If what is in the folder is of another config.
    """

    def __init__(self, folder: Path, cfg: Config, about: str = '') -> None:
        told = {
            k: v
            for k, v in cfg.to_dict().items()
            if k not in _INDECISIVE and not k.startswith(_AFTERWARDS)
        }
        loader = told.get('train_dataloader') or {}
        kept = {k: v for k, v in loader.items() if k not in OF_SPEED}
        told['train_dataloader'] = kept
        self.mark = mark(told, about)
        self.folder = folder
        self._file = folder / 'stage.json'
        known = json.loads(self._file.read_text()) if self._file.is_file() else {}
        if known and known['config'] != self.mark:
            raise ValueError(
                f'{folder} holds a stage of another config: name another --work-dir, '
                'or remove that folder'
            )
        self.is_done = bool(known.get('done'))
        if not known:
            self._write(done=False)

    def finish(self) -> None:
        """Say that it is done."""
        self._write(done=True)

    def _write(self, done: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps(dict(config=self.mark, done=done)))
