"""A batch of two small pictures with whatever labels a family learns from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ..demo.digits import IGNORE, label_map
from ..demo.scene import Scene, compose_scene, mask_box

#: Words for classes, where a model reads them.
NAMES = tuple(f'class {i}' for i in range(80))


@dataclass
class Labels:
    """What a detector learns from: classes of objects, and of what is none."""

    things: int
    first_stuff: int
    masks: bool
    proposals: bool


def detection_batch(cfg: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Two pictures of digits with boxes, and masks and semantic labels if needed.

    Args:
        cfg: Config of the detector.
        size: Side of the first picture in pixels; the second one is narrower where
            the config pads.

    Returns:
        What a data loader yields: ``inputs`` and ``data_samples``; for a
        semi-supervised detector one entry per branch.
    """
    model = cfg['model']
    labels = labels_of(cfg)
    pads = (model.get('data_preprocessor') or {}).get('pad_size_divisor', 1) > 1
    inputs, samples = [], []
    for index in range(2):
        scene = compose_scene(np.random.default_rng(index), 'train', size)
        width = size * 3 // 4 if pads and index else size
        inputs.append(_image(scene, width))
        samples.append(_detection_sample(scene, width, index, labels))
    if model['type'] != 'SoftTeacher':
        return dict(inputs=inputs, data_samples=samples)
    # A branch has None for the pictures that belong to another one.
    return dict(
        inputs=dict(
            sup=[inputs[0], None],
            unsup_teacher=[None, inputs[1]],
            unsup_student=[None, inputs[1].clone()],
        ),
        data_samples=dict(
            sup=[samples[0], None],
            unsup_teacher=[None, samples[1]],
            unsup_student=[None, copy.deepcopy(samples[1])],
        ),
    )


def segmentation_batch(cfg: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Two pictures of digits with label maps.

    Args:
        cfg: Config of the segmentor, which says how many classes there are; two
            pictures one after the other make one of six channels where it has
            means for them.
        size: Side of the pictures in pixels.

    Returns:
        ``inputs`` and ``data_samples``.
    """
    from mmseg.structures import SegDataSample

    head = cfg['model']['decode_head']
    head = head[-1] if isinstance(head, (list, tuple)) else head
    classes = max(head.get('num_classes', 19), 2)
    channels = len((cfg.get('data_preprocessor') or {}).get('mean') or (0, 0, 0))
    # MMSegmentation 1.2 looks for the weight of label 255, too.
    weighted = any(part.get('class_weight') for part in dicts(cfg['model']))
    ignored = 0 if weighted else IGNORE
    inputs, samples = [], []
    for index in range(2):
        scene = compose_scene(np.random.default_rng(index), 'train', size)
        labels = label_map(scene)
        labels = np.where(labels == IGNORE, ignored, labels % classes)
        sample = SegDataSample(
            gt_sem_seg=pixels(labels), gt_edge_map=pixels(_edges(labels))
        )
        distance = torch.from_numpy(scene.image[None, ..., 0] / 25.5 + 0.1).float()
        sample.gt_depth_map = PixelData(data=distance)
        sample.set_metainfo(image_meta(size, size, index))
        inputs.append(_image(scene, size).repeat(channels // 3, 1, 1))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _image(scene: Scene, width: int) -> Tensor:
    image = np.ascontiguousarray(scene.image[:, :width, ::-1].transpose(2, 0, 1))
    return torch.from_numpy(image)


def image_meta(height: int, width: int, index: int) -> dict[str, Any]:
    """What pipelines tell of a picture that was neither resized nor flipped."""
    shape = (height, width)
    return dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        img_id=index,
        img_path=f'{index}.png',
        border=np.array([0, height, 0, width]),  # of a random crop, in CornerNet
    )


def _detection_sample(scene: Scene, width: int, index: int, known: Labels) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height = len(scene.image)
    digits = [d for d in scene.digits if d.mask[:, :width].sum() > 16]
    masks = np.stack([d.mask[:, :width] for d in digits]).astype(np.uint8)
    boxes = torch.tensor([mask_box(mask) for mask in masks]).float()
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([d.label % known.things for d in digits])
    semantic = np.full((height, width), known.first_stuff)
    for mask, label in zip(masks, labels.tolist()):
        semantic[mask > 0] = label
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=boxes, labels=labels),
        ignored_instances=InstanceData(bboxes=boxes[:0], labels=labels[:0]),
        gt_sem_seg=PixelData(sem_seg=pixels(semantic).data),
    )
    if known.masks:
        sample.gt_instances.masks = BitmapMasks(masks, height, width)
        sample.ignored_instances.masks = BitmapMasks(masks[:0], height, width)
    if known.proposals:
        sample.proposals = _proposals(boxes, height, width)
    sample.set_metainfo(image_meta(height, width, index))
    sample.set_metainfo(
        dict(
            text=NAMES[: known.things],
            custom_entities=True,
            homography_matrix=np.eye(3, dtype=np.float32),
        )
    )
    return sample


def _proposals(boxes: Tensor, height: int, width: int) -> InstanceData:
    """Boxes for detectors that are given them: true ones, shifted, and a grid."""
    side = height / 4
    x, y = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing='ij')
    corner = torch.stack([x, y], -1).reshape(-1, 2) * side / 2
    grid = torch.cat([corner, corner + side], 1)
    found = torch.cat([boxes, boxes + 3, grid])
    found[:, 0::2] = found[:, 0::2].clamp(0, width)
    found[:, 1::2] = found[:, 1::2].clamp(0, height)
    found = found[(found[:, 2:] - found[:, :2] > 2).all(1)]
    return InstanceData(bboxes=found, scores=torch.linspace(1, 0.1, len(found)))


def pixels(labels: np.ndarray) -> PixelData:
    """A map of labels, (H, W), as a data sample holds it."""
    return PixelData(data=torch.from_numpy(labels.astype(np.int64))[None])


def _edges(labels: np.ndarray) -> np.ndarray:
    """Borders between classes, as PIDNet's pipeline draws them."""
    return cv2.dilate(cv2.Canny(labels.astype(np.uint8), 0.1, 0.2), np.ones((3, 3))) > 0


def labels_of(cfg: Mapping[str, Any]) -> Labels:
    """What a detector learns from, as its stock config tells."""
    model = cfg['model']
    found = [
        head[key]
        for head in _heads(model)
        for key in ('num_things_classes', 'num_classes')
        if isinstance(head.get(key), int)
    ]
    things = found[0] if found else 80
    panoptic = model.get('semantic_head') or model.get('panoptic_head')
    stuff = (panoptic or {}).get('num_stuff_classes', 1)
    loading = list(dicts(cfg.get('train_dataloader')))
    return Labels(
        things=things,
        first_stuff=things if stuff else IGNORE,
        masks=any(
            part.get('with_mask') or 'Panoptic' in str(part.get('type'))
            for part in loading
        ),
        # A detector with a region proposal network takes them for its own.
        proposals='roi_head' in model and 'rpn_head' not in model,
    )


def _heads(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    model = model.get('detector') or model
    roi = model.get('roi_head') or {}
    named: list[Any] = [model.get('panoptic_head'), roi.get('bbox_head')]
    named += [model.get('bbox_head'), model.get('mask_head')]
    heads: list[Any] = []
    for head in named:
        heads += head if isinstance(head, (list, tuple)) else [head]
    return [head for head in heads if isinstance(head, Mapping)]


def dicts(value: Any) -> Iterator[dict]:
    """Every dict of a nested config, outer ones first.

    Example:
        >>> [sorted(part) for part in dicts([dict(a=dict(b=1))])]
        [['a'], ['b']]
    """
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from dicts(item)
