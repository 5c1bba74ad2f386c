"""The validation pictures of a run, and what networks predict on them."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..data_check import classes_of
from ..overrides import use_data_root
from .networks import import_custom
from .run import Run

#: Arguments by which a metric writes files, maybe over those of the run.
_WRITES = ('outfile_prefix', 'output_dir', 'out_file_path', 'format_only')


class Data:
    """Validation pictures as a run reads them.

    Args:
        run: The run whose config names them.
        limit: The most pictures that are used, spread evenly.

    Attributes:
        indices: Items of the data set that are used.
        total: Number of pictures of the data set.
        classes: Names of its classes.
        palette: Their colours, RGB, if the data set has some.
    """

    def __init__(self, run: Run, limit: int) -> None:
        import_custom(run)
        self.cfg = use_data_root(copy.deepcopy(run.cfg), os.environ.get('MMKD_DATA'))
        self.scope = run.scope
        if not self.cfg.get('val_dataloader'):
            raise ValueError(f'the config of {run.name} has no val_dataloader')
        loader = copy.deepcopy(self.cfg.val_dataloader)
        loader.update(num_workers=0, persistent_workers=False)
        loader.pop('prefetch_factor', None)
        with _quiet(), DefaultScope.overwrite_default_scope(self.scope):
            self._loader = Runner.build_dataloader(loader, seed=0)
        self.dataset: Any = self._loader.dataset
        self.total = len(self.dataset)
        count = min(limit, self.total)
        self.indices = [i * self.total // count for i in range(count)]
        self.classes = list(classes_of(self.dataset) or ())
        self.palette = (getattr(self.dataset, 'metainfo', None) or {}).get('palette')

    def evaluator(self) -> Evaluator:
        """The run's own evaluator, which writes no files."""
        entries: Any = self.cfg.get('val_evaluator') or []
        entries = [entries] if isinstance(entries, dict) else entries
        kept = [
            {key: value for key, value in entry.items() if key not in _WRITES}
            for entry in copy.deepcopy(entries)
            if not str(entry.get('type')).rpartition('.')[2].startswith('Dump')
        ]
        with _quiet(), DefaultScope.overwrite_default_scope(self.scope):
            evaluator = Evaluator(kept)
        evaluator.dataset_meta = self.dataset.metainfo
        return evaluator

    @torch.no_grad()
    def predictions(
        self, network: Any, advance: Callable[[], None], evaluator: Evaluator
    ) -> Iterator[tuple[int, Any]]:
        """What a network predicts, in batches as in the run's own validation.

        Args:
            network: In eval mode.
            advance: Called after every picture.
            evaluator: Sees what is predicted, too.

        Yields:
            Index of the picture and its data sample.
        """
        size = self._loader.batch_size or 1
        collate: Any = self._loader.collate_fn
        for start in range(0, len(self.indices), size):
            chunk = self.indices[start : start + size]
            batch = collate([self.dataset[index] for index in chunk])
            with DefaultScope.overwrite_default_scope(self.scope):
                outputs = network.val_step(batch)
            with _quiet():
                evaluator.process(data_samples=outputs, data_batch=batch)
            for index, output in zip(chunk, outputs):
                yield index, output
                advance()

    def metrics(self, evaluator: Evaluator, seen: Sequence[Any]) -> dict[str, float]:
        """What the evaluator says after all predictions.

        Args:
            evaluator: It has seen all of them.
            seen: ``img_id`` of the pictures.
        """
        if len(seen) < self.total:
            for metric in evaluator.metrics:
                if hasattr(metric, 'img_ids'):  # COCO's; others would count as 0
                    metric.img_ids = list(seen)
        with _quiet():
            found = evaluator.evaluate(len(seen))
        return {
            key: float(value)
            for key, value in found.items()
            if _single(value) and value != -1  # COCO's word for none
        }

    def image(self, index: int) -> np.ndarray:
        """A picture in its own size, BGR, uint8."""
        import cv2

        info = self.dataset.get_data_info(index)
        path = info.get('img_path')
        picture = cv2.imread(str(path)) if path else None
        if picture is not None:
            return picture
        sample = self.dataset[index]
        picture = sample['inputs'].permute(1, 2, 0).numpy().astype(np.uint8)
        height, width = sample['data_samples'].ori_shape[:2]
        return cv2.resize(np.ascontiguousarray(picture), (width, height))

    def name(self, index: int) -> str:
        """What a picture is called."""
        path = self.dataset.get_data_info(index).get('img_path')
        return os.path.basename(str(path)) if path else f'picture {index}'


def check_same(first: Data, second: Data, names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless two runs validate on the same pictures.

    Args:
        first: Data of the baseline.
        second: Data of another run.
        names: Of the two runs.
    """
    ours = [first.name(index) for index in first.indices]
    theirs = [second.name(index) for index in second.indices]
    if ours != theirs or first.classes != second.classes:
        raise ValueError(
            f'{names[0]} and {names[1]} must be validated on the same pictures and '
            f'classes, but one has {first.total} pictures and {len(first.classes)} '
            f'classes and the other {second.total} and {len(second.classes)}'
        )


def _single(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating, np.integer))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield
