"""The batches that are measured on: synthetic ones, or the config's own."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from ..config import model_scope, student_config
from ..coverage.samples import dicts, image_meta, labels_of, pixels
from .setting import SEED, Setting

#: Batches of real data that are taken in turn; of synthetic ones there is one.
REAL_BATCHES = 4
#: Cells of a random label map along each side.
_CELLS = 8


def batches_of(setting: Setting) -> list[dict[str, Any]]:
    """What a data loader yields, before the preprocessor.

    Args:
        setting: What is measured.

    Returns:
        Batches of ``inputs`` and ``data_samples``, the same for the same setting.

    Raises:
        ValueError: If there are no synthetic batches for such a model.
    """
    stock = student_config(setting.cfg)
    if setting.size is None:
        loader = loader_of(stock, setting.batch)
        return list(itertools.islice(iter(loader), REAL_BATCHES))
    make = dict(mmdet=_detection_sample, mmseg=_segmentation_sample)
    scope = model_scope(stock)
    if scope not in make:
        raise ValueError(
            f'there are synthetic batches for mmdet and mmseg but not for {scope}; '
            'take --data'
        )
    rng = np.random.default_rng(SEED)
    inputs, samples = [], []
    for index in range(setting.batch):
        image = rng.integers(0, 256, (3, *setting.size), dtype=np.uint8)
        inputs.append(torch.from_numpy(image))
        samples.append(make[scope](stock, setting, rng, index))
    return [dict(inputs=inputs, data_samples=samples)]


def fit_preprocessor(cfg: Config, size: tuple[int, int]) -> None:
    """Let a segmentor take pictures of another size than its config pads them to.

    Args:
        cfg: Stock config; changed in place.
        size: Height and width in pixels.
    """
    for part in dicts(cfg.model.get('data_preprocessor')):
        if part.get('type') == 'SegDataPreProcessor':
            part.update(size=size, size_divisor=None)


def loader_of(cfg: Config, batch: int) -> Any:
    """The config's own training data, loaded in this process.

    Args:
        cfg: A stock config.
        batch: Pictures in a batch.
    """
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(batch_size=batch, num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    return Runner.build_dataloader(loader, seed=SEED)


def _detection_sample(
    cfg: Config, setting: Setting, rng: np.random.Generator, index: int
) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    assert setting.size is not None
    assert setting.objects is not None
    (height, width), known = setting.size, labels_of(cfg)
    boxes = random_boxes(rng, setting.objects, height, width)
    labels = torch.from_numpy(rng.integers(0, known.things, setting.objects))
    truth = InstanceData(bboxes=boxes, labels=labels)
    ignored = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    if known.masks:
        masks = np.zeros((len(boxes), height, width), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        truth.masks = BitmapMasks(masks, height, width)
        ignored.masks = BitmapMasks(masks[:0], height, width)
    sample = DetDataSample(gt_instances=truth, ignored_instances=ignored)
    if any(part.get('with_seg') for part in dicts(cfg.get('train_dataloader'))):
        semantic = np.full((height, width), known.first_stuff)
        sample.gt_sem_seg = PixelData(sem_seg=pixels(semantic).data)
    sample.set_metainfo(image_meta(height, width, index))
    return sample


def random_boxes(
    rng: np.random.Generator, count: int, height: int, width: int
) -> torch.Tensor:
    """Boxes of all sizes in a picture.

    Args:
        rng: Where they are drawn from.
        count: How many.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        (count, 4) as x1, y1, x2, y2; the logarithms of sides, of 1/16 to 3/4 of the
        picture's, are even.

    Example:
        >>> random_boxes(np.random.default_rng(0), 5, 64, 96).shape
        torch.Size([5, 4])
    """
    side = np.exp(rng.uniform(np.log(1 / 16), np.log(3 / 4), (count, 1)))
    shape = np.exp(rng.uniform(-0.3, 0.3, (count, 1)))
    sides = np.concatenate([side * shape, side / shape], 1).clip(max=1)
    corner = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    boxes = np.concatenate([corner, corner + sides], 1)
    return torch.from_numpy(boxes * [width, height, width, height]).float()


def _segmentation_sample(
    cfg: Config, setting: Setting, rng: np.random.Generator, index: int
) -> Any:
    from mmseg.structures import SegDataSample

    assert setting.size is not None
    height, width = setting.size
    head = cfg.model.decode_head
    head = head[-1] if isinstance(head, (list, tuple)) else head
    cells = rng.integers(0, max(head.get('num_classes', 19), 2), (_CELLS, _CELLS))
    rows, columns = (np.arange(side) * _CELLS // side for side in (height, width))
    sample = SegDataSample(gt_sem_seg=pixels(cells[rows][:, columns]))
    sample.set_metainfo(image_meta(height, width, index))
    return sample
