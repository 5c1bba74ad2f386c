"""Small stock models and real-shaped batches that several test files use."""

from __future__ import annotations

import copy
import functools

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from mmkd.config import load_config


@functools.lru_cache
def zoo(name: str) -> Config:
    """A stock config; parsing takes a second, so once."""
    return load_config(name)


def tiny_gfl(width: int = 16, **model) -> Config:
    """Stock GFL from the zoo's config, narrow, on ResNet-18, with BatchNorm."""
    cfg = copy.deepcopy(zoo('mmdet::gfl/gfl_r50_fpn_1x_coco.py'))
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(
                    depth=18,
                    base_channels=8,
                    frozen_stages=-1,
                    norm_eval=False,
                    init_cfg=None,
                ),
                neck=dict(in_channels=[8, 16, 32, 64], out_channels=width),
                bbox_head=dict(
                    num_classes=3,
                    in_channels=width,
                    feat_channels=width,
                    stacked_convs=1,
                    norm_cfg=dict(type='GN', num_groups=4),
                ),
            )
        )
    )
    cfg.merge_from_dict(dict(model=model))
    return cfg


def narrow_r18() -> dict:
    """Settings of a stock ResNet: narrow, of 18 layers, with GroupNorm."""
    return dict(
        depth=18,
        base_channels=8,
        frozen_stages=-1,
        norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
        norm_eval=False,
        init_cfg=None,
    )


FASTER_RCNN = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


def tiny_two_stage(
    width: int = 16, name: str = FASTER_RCNN, classes: int = 3, **box_head
) -> Config:
    """A stock two-stage detector from the zoo's config, narrow, on ResNet-18.

    Args:
        width: Of neck and region proposal network.
        name: The config.
        classes: Number of classes.
        box_head: Further settings of every box head.
    """
    cfg = copy.deepcopy(zoo(name))
    model = cfg.model
    model.backbone.update(narrow_r18())
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    model.rpn_head.update(in_channels=width, feat_channels=width)
    for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if part in model.roi_head:
            model.roi_head[part].out_channels = width
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=width, fc_out_channels=32, num_classes=classes)
        head.update(box_head)
    if 'mask_head' in model.roi_head:
        model.roi_head.mask_head.update(
            in_channels=width, conv_out_channels=width, num_classes=classes
        )
    model.train_cfg.rpn.sampler.num = 64
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 32
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    return cfg


def tiny_pspnet(width: int = 16) -> Config:
    """Stock PSPNet on a narrow ResNet-18, with dropout and an auxiliary head."""
    cfg = copy.deepcopy(
        zoo('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    )
    cfg.merge_from_dict(
        dict(
            model=dict(
                data_preprocessor=dict(size=(64, 64)),
                pretrained=None,
                backbone=dict(
                    base_channels=8, stem_channels=8, norm_cfg=dict(type='BN')
                ),
                decode_head=dict(
                    in_channels=64,
                    channels=width,
                    num_classes=4,
                    norm_cfg=dict(type='BN'),
                ),
                auxiliary_head=dict(
                    in_channels=32,
                    channels=width,
                    num_classes=4,
                    norm_cfg=dict(type='BN'),
                ),
            )
        )
    )
    return cfg


def build(cfg, scope: str, seed: int = 0) -> torch.nn.Module:
    """Build and initialise a model the way the Runner does."""
    from mmengine.registry import MODELS

    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model


def distilled_detector(student, teacher, losses, **options) -> torch.nn.Module:
    """A detector with a teacher of random weights, or those of ``checkpoint``.

    Args:
        student: Its config.
        teacher: Its config.
        losses: Log name -> config of a loss.
        options: Further entries of the teacher.
    """
    from mmkd.registry import MODELS

    entry = dict(config=teacher, checkpoint=None) | options
    entry['allow_random'] = entry['checkpoint'] is None
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='mmkd.DistillDetector',
                student=copy.deepcopy(student.model),
                teacher=entry,
                losses=copy.deepcopy(losses),
            )
        )


def detection_batch(shapes=((96, 128), (128, 96)), seed: int = 0) -> dict:
    """Raw detector inputs: uint8 images of several sizes, two boxes on each."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index, (height, width) in enumerate(shapes):
        image = torch.randint(0, 256, (3, height, width), generator=generator)
        inputs.append(image.to(torch.uint8))
        meta = dict(
            img_id=index,
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
        boxes = torch.tensor([[8.0, 8, 40, 48], [30, 20, width - 8, height - 10]])
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def is_classifier(path) -> bool:
    """Whether a shipped config is one of MMPretrain, by its name."""
    return path.stem.endswith('_in1k')


def classification_batch(size: int = 64) -> dict:
    """Raw inputs of MMPretrain's classifiers: two uint8 images with labels."""
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, size, size), generator=generator)
    return dict(
        inputs=list(images.to(torch.uint8)),
        data_samples=[DataSample().set_gt_label(label) for label in (0, 2)],
    )


def with_masks(raw: dict) -> dict:
    """The batch of a detector with a mask of every object: its box."""
    from mmdet.structures.mask import BitmapMasks

    raw = copy.deepcopy(raw)
    for image, sample in zip(raw['inputs'], raw['data_samples']):
        height, width = image.shape[1:]
        boxes = sample.gt_instances.bboxes
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), height, width)
    return raw


def segmentation_batch(size: int = 64, seed: int = 0) -> dict:
    """Raw segmentor inputs: two uint8 images with label maps, some pixels ignored."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(2):
        image = torch.randint(0, 256, (3, size, size), generator=generator)
        labels = torch.randint(0, 4, (1, size, size), generator=generator)
        labels[:, :5] = 255
        meta = dict(img_shape=(size, size), ori_shape=(size, size))
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=labels)
        inputs.append(image.to(torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model: torch.nn.Module, batch: dict, seed: int = 0) -> dict:
    """Training losses on a raw batch, dropout drawn from the seed."""
    model.train()
    torch.manual_seed(seed)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    return model(**data, mode='loss')


def total(losses: dict) -> torch.Tensor:
    """What the optimizer minimises."""
    parts = [v if isinstance(v, torch.Tensor) else sum(v) for v in losses.values()]
    return sum(part.sum() for key, part in zip(losses, parts) if 'loss' in key)


def deterministic_training(model: torch.nn.Module) -> torch.nn.Module:
    """Training mode in which only what modules post-process in eval can differ."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
        for name in ('p', 'drop_prob', 'dropout'):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def tensors(value) -> list[torch.Tensor]:
    """All tensors of nested tuples and lists in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [x for item in value for x in tensors(item)]
    return []
