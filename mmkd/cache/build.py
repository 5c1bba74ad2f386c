"""Asks a teacher once about every view of every image, and keeps what it says."""

from __future__ import annotations

import copy
import itertools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..batch import Batch
from ..config import is_distilled, own_kind, teacher_options
from ..config_kind import refuse_gan
from ..dry_run import dry_run
from ..fileio import file_digest
from ..losses.base import levels
from ..taps import Tap, record
from ..teacher_group import is_group
from .key import differs, digest, live, reads_rows, run_parts
from .names import image_name, record_name, shard_name, shard_of, view_name
from .ranks import best_device, rank, world_size
from .shards import FORMAT, DamagedError, Entry, Record, encode
from .store import MANIFEST, Store
from .tap import MAPS, facts_of, taken
from .views import described, leaves, views_of

#: Images of a file, about.
IMAGES_PER_SHARD = 256


class CacheBuilder:
    """Makes the teacher cache of a training run.

    Args:
        cfg: Config of the run, see :func:`mmkd.training.train_config`.
        folder: Folder or address of the cache.
        device: Where both networks run; the best there is if not given.
        backend_args: Of mmengine's file backend.

    Raises:
        ValueError: If the run cannot have a cache, saying why.
    """

    def __init__(
        self,
        cfg: Config,
        folder: str,
        device: str | torch.device | None = None,
        backend_args: dict | None = None,
    ) -> None:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        cfg = _with_live_teacher(cfg)
        self.store = Store(folder, backend_args)
        self.device = torch.device(device or best_device())
        dataset = DATASETS.build(cfg.train_dataloader['dataset'])
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        self.model = _model(cfg).to(self.device)
        _check_terms(self.model.distiller)
        parts, self.roots = run_parts(cfg, dataset, self.model)
        found = leaves(cfg.train_dataloader['dataset'], dataset)
        self.views = [views_of(*leaf) for leaf in found]
        self.manifest = self._manifest(cfg, parts)
        self._shares = self._shared_out()

    def _manifest(self, cfg: Config, parts: dict[str, Any]) -> dict[str, Any]:
        teacher = _about_teacher(self.model.distiller.teacher, cfg.model.teacher)
        images = parts['data']['images']
        taps, size = _dry_facts(self.model)
        return dict(
            format=FORMAT,
            key=_key(parts, teacher),
            teacher=teacher,
            parts=parts,
            taps=taps,
            dry_run_size=size,
            images=images,
            shards=max(-(-images // IMAGES_PER_SHARD), 1),
        )

    def build(self, advance: Callable[[int], None] = lambda images: None) -> int:
        """Write the files that are missing, this rank's share of them.

        ``RANK`` and ``WORLD_SIZE`` of ``torchrun`` tell which those are. The files do
        not depend on how many processes there are.

        Args:
            advance: Called with the number of images after every file.

        Returns:
            Number of files that were written.

        Raises:
            ValueError: If the folder holds another cache.
        """
        self._begin()
        written = 0
        for number, images in enumerate(self._shares):
            if number % world_size() != rank():
                continue
            if not self._is_there(number):
                content = self._shard(number, images)
                self.store.write(shard_name(number), content)
                written += 1
            advance(len(images))
        return written

    @property
    def images(self) -> int:
        """Number of images that this rank sees to."""
        shares = self._shares[rank() :: world_size()]
        return sum(map(len, shares))

    def _begin(self) -> None:
        known = self.store.manifest()
        if known is None:
            if rank() == 0:  # two that write one file would take it from each other
                self.store.write(MANIFEST, json_text(self.manifest).encode())
        elif known.get('key') != self.manifest['key']:
            pairs = [(known.get(part), its) for part, its in self.manifest.items()]
            raise ValueError(
                f'{self.store} holds another cache '
                f'({next(filter(None, itertools.starmap(differs, pairs)))}); name '
                'another folder by --cache, or delete it'
            )

    def _shared_out(self) -> list[list[tuple[Any, int]]]:
        """Images of every file: data set and index."""
        names: set[str] = set()
        shares: list[list] = [[] for _ in range(self.manifest['shards'])]
        for views in self.views:
            views.check()
            for image in range(views.images):
                name = views.name(image, self.roots)
                if name in names:
                    raise ValueError(
                        f'the training data have two images called {name!r}, which a '
                        'cache cannot tell apart; give them different img_id'
                    )
                names.add(name)
                shares[shard_of(name, len(shares))].append((views, image))
        return shares

    def _is_there(self, number: int) -> bool:
        if self.store.complaint(shard_name(number)):
            return False
        try:
            shard = self.store.shard(shard_name(number))
            shard.check()
        except DamagedError:
            return False
        return shard.about['key'] == self.manifest['key']

    def _shard(self, number: int, images: list[tuple[Any, int]]) -> bytes:
        records: dict[str, Record] = {}
        pictures: dict[str, int] = {}
        for views, index in images:
            name = views.name(index, self.roots)
            for sample in views.samples(index):
                meta = sample['data_samples'].metainfo
                _check_name(name, image_name(meta, self.roots))
                view = record_name(name, view_name(meta))
                picture = zlib.crc32(sample['inputs'].contiguous().numpy())
                if view not in records:  # two scales may give one size
                    records[view] = self.record(sample)
                elif picture != pictures[view]:
                    raise ValueError(
                        f'the pipeline draws different pictures of image {name!r} that '
                        f'it calls alike ({view_name(meta)}); flip once, keep flip and '
                        'flip_direction in the meta_keys of its last step, and let no '
                        'step hide the scale'
                    )
                pictures[view] = picture
        about = dict(key=self.manifest['key'], number=number)
        return encode(records, about)

    @torch.no_grad()
    def record(self, sample: Any) -> Record:
        """What the teacher says of one view.

        Args:
            sample: As the pipeline packs it.

        Returns:
            Field -> values at the places that the terms read.
        """
        data = self.model.data_preprocessor(pseudo_collate([sample]), True)
        batch = Batch(data['inputs'], data['data_samples'])
        terms = live(self.model.distiller)
        students = self._student(data, terms)
        places: dict[tuple[str, str], Any] = {}
        for loss in terms.values():
            rows = loss.places(students.get(loss.at), batch)
            for field in loss.reads if reads_rows(loss) else (MAPS,):
                key = (loss.teacher_at, field)
                places[key] = _union(places.get(key), rows)
        distiller = self.model.distiller
        types = {path: distiller._taps['teacher'][path] for path, _ in places}
        taps = distiller.teacher.run(batch, types, distiller._teacher_calls)
        sizes = {loss.teacher_at: loss.at for loss in terms.values()}
        return {
            f'{path}:{field}': _entry(taps[path], field, rows, students, sizes[path])
            for (path, field), rows in places.items()
        }

    def _student(self, data: Any, terms: dict[str, Any]) -> dict[str, Any]:
        """The student's views, targets assigned, where terms need them."""
        paths = {loss.at for loss in terms.values() if reads_rows(loss)}
        if not paths:
            return {}
        types = self.model.distiller._taps['student']
        with record(self.model, {path: types[path] for path in paths}) as taps:
            self.model(**data, mode='loss')
        return {path: tap.value for path, tap in taps.items()}


def json_text(value: Any) -> str:
    """JSON to be read by people, too."""
    return json.dumps(value, indent=1, sort_keys=True)


def _with_live_teacher(cfg: Config) -> Config:
    refuse_gan(cfg, 'tools/cache_teacher.py')
    cfg = copy.deepcopy(cfg)
    if not is_distilled(cfg):
        raise ValueError(
            'a cache needs losses: a distillation config, or --method and --teacher'
        )
    teacher = teacher_options(cfg.model.teacher)
    teacher = {k: v for k, v in teacher.items() if k not in ('cache', 'backend_args')}
    if not teacher:
        raise ValueError('the config names a cache and no teacher to make it of')
    if is_group(teacher):
        raise ValueError('a cache is made of one teacher but the config names several')
    if own_kind(teacher):
        raise ValueError(
            'a cache needs another network as its teacher, not the student, which '
            'changes in every step'
        )
    cfg.model.teacher = teacher
    if cfg.get('data_preprocessor'):  # as the Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


def _model(cfg: Config) -> Any:
    model: Any = MODELS.build(cfg.model)
    model.train()
    # Batches of one image; what the student predicts does not matter.
    for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
        norm.eval()
    # The student's own step, without terms and wider networks.
    model.distiller.factors = dict.fromkeys(model.distiller.factors, 0.0)
    if hasattr(model, 'netaug'):
        model.netaug.aug_weight = 0.0
    return model


def _check_terms(distiller: Any) -> None:
    """Say of all terms at once which cannot be stored."""
    problems = []
    for name, loss in live(distiller).items():
        if reads_rows(loss):
            continue
        try:
            loss.places(None, None)
        except ValueError as error:
            problems.append(f'{name}: {error}')
    if problems:
        raise ValueError('; '.join(problems))
    if not live(distiller):
        raise ValueError('no term is on, so that there is nothing to store')


def _key(parts: dict[str, Any], teacher: dict[str, Any]) -> str:
    names = ('digest', 'network', 'dtype', 'normalization')
    about = {name: teacher[name] for name in names}
    return digest(json.loads(json.dumps(dict(parts, teacher=about, format=FORMAT))))


def _about_teacher(teacher: Any, entry: Any) -> dict[str, Any]:
    options = teacher_options(entry)
    config = options.get('config')
    checkpoint = options.get('checkpoint')
    is_file = checkpoint is not None and Path(str(checkpoint)).is_file()
    both = teacher.normalizations
    return dict(
        digest=teacher.digest,
        network=digest(described(getattr(teacher.model, 'cfg', {}).get('model'))),
        dtype=teacher.economy.dtype,
        source=teacher.source,
        is_random=teacher.is_random,
        config=str(config) if isinstance(config, (str, Path)) else None,
        checkpoint=None if checkpoint is None else str(checkpoint),
        checkpoint_sha256=file_digest(str(checkpoint)) if is_file else None,
        normalization=None if both is None else vars(both[1]),
    )


def _dry_facts(model: Any) -> tuple[dict[str, Any], int]:
    """What the losses' checks ask of the teacher's taps, and the size of the image."""
    distiller = model.distiller
    types = distiller._taps
    student = dry_run(model, types['student'])
    teacher = distiller.teacher.dry_run(types['teacher'], student.size)
    student = dry_run(model, types['student'], teacher.size)
    facts = {}
    for loss in live(distiller).values():
        facts[loss.teacher_at] = facts_of(teacher.taps[loss.teacher_at])
        ours = facts_of(student.taps[loss.at])
        sides = [
            [shape[2:] for shape in side.get('maps', ())]
            for side in (ours, facts[loss.teacher_at])
        ]
        facts[loss.teacher_at]['alike'] = sides[0] == sides[1]
    return facts, teacher.size


def _entry(
    tap: Tap, field: str, rows: Tensor | None, students: dict[str, Any], at: str
) -> Entry:
    values = taken(tap, field, rows)
    if rows is None:
        shapes = [list(level.shape[1:]) for level in levels(tap.value)]
        return Entry(values, torch.tensor(shapes, dtype=torch.int32))
    shapes = [list(size) for size in students[at].sizes]
    return Entry(values, torch.tensor(shapes, dtype=torch.int32), rows.int().cpu())


def _union(known: Tensor | None, rows: Tensor | None) -> Tensor | None:
    if rows is None or known is None:
        return rows
    return torch.cat([known, rows]).unique()


def _check_name(name: str, packed: str) -> None:
    if name != packed:
        raise ValueError(
            f'the training pipeline must hand on what an image is called ({name}) but '
            f'its samples say {packed}; keep img_id in meta_keys of its last step'
        )
