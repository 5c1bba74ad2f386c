"""Stock detectors and segmentors built on the fallbacks: one step, one prediction."""

import pytest
import torch
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

import mmkd  # noqa: F401

pytest.importorskip('mmcv')


def shrink(model):
    """ResNet-18 from scratch, few proposals and few predictions."""
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    model.backbone.update(
        depth=18,
        frozen_stages=-1,
        norm_eval=False,
        norm_cfg=dict(type='BN', requires_grad=True),
        style='pytorch',
        init_cfg=None,
    )
    neck.in_channels = [64, 128, 256, 512][-len(neck.in_channels) :]
    if 'rcnn' in model.train_cfg:
        model.train_cfg.rpn_proposal.max_per_img = 30
        model.train_cfg.rcnn.sampler.num = 16
        model.test_cfg.rpn.max_per_img = 20
        model.test_cfg.rcnn.update(max_per_img=3, score_thr=0.0)


def soft_nms(model):
    shrink(model)
    nms = dict(type='soft_nms', iou_threshold=0.5, min_score=0.01)
    model.test_cfg.rcnn.nms = nms


def deformable_backbone(model):
    """The bottlenecks stay: only they have deformable variants."""
    shrink(model)
    model.backbone.depth = 50
    model.neck.in_channels = [256, 512, 1024, 2048]


DETECTORS = {
    # The operators that each one is here for.
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py': deformable_backbone,
    'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py': soft_nms,  # deform_roi_pool
    'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py': shrink,
    'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py': shrink,  # masked_conv
    'vfnet/vfnet_r50_fpn_1x_coco.py': shrink,  # deform_conv in the head
    'dyhead/atss_r50_fpn_dyhead_1x_coco.py': shrink,  # offsets of another level
}


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    config = get_config(f'mmdet::{name}').model
    DETECTORS[name](config)
    model = MODELS.build(config)

    def batch(training):
        data = demo_mm_inputs(
            1, [(3, 64, 96)], num_items=[2], num_classes=5, with_mask=True
        )
        return model.data_preprocessor(data, training)

    loss, _ = model.parse_losses(model.train()(**batch(True), mode='loss'))
    loss.backward()
    assert loss.isfinite()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    # The gradient passes the operators on its way from the head to the stem.
    assert grads['backbone.conv1.weight'].abs().sum() > 0
    with torch.no_grad():
        results = model.eval()(**batch(False), mode='predict')
    assert results[0].pred_instances.bboxes.isfinite().all()


@pytest.mark.parametrize(
    'name',
    [
        'psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
    ],
)
def test_segmentor(name):
    pytest.importorskip('mmseg')
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    init_default_scope('mmseg')
    config = get_config(f'mmseg::{name}').model
    config.pretrained = None
    config.data_preprocessor.update(size=None, size_divisor=32)
    model = revert_sync_batchnorm(MODELS.build(config))

    def batch(training):
        samples = []
        for _ in range(2):
            meta = dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96))
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, 64, 96)))
            samples.append(sample)
        images = [torch.randint(0, 255, (3, 64, 96)).byte() for _ in range(2)]
        data = dict(inputs=images, data_samples=samples)
        return model.data_preprocessor(data, training)

    loss, _ = model.parse_losses(model.train()(**batch(True), mode='loss'))
    loss.backward()
    stem = model.backbone.stem[0].weight.grad
    assert loss.isfinite()
    assert stem.isfinite().all()
    assert stem.abs().sum() > 0
    with torch.no_grad():
        results = model.eval()(**batch(False), mode='predict')
    assert results[0].pred_sem_seg.data.shape == (1, 64, 96)
