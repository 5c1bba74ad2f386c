"""Head views give the student's own targets, against a second computation."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from tiny_models import build, detection_batch, tiny_gfl, zoo

from mmkd.det.tap_of import tap_of
from mmkd.det.views import DenseHeadView
from mmkd.taps import Call, Tap, record


def shrunk(name):
    cfg = copy.deepcopy(zoo(name))
    backbone = dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
    head = dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(backbone, style='pytorch'),
                neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
                bbox_head=head,
            )
        )
    )
    if cfg.model.bbox_head.type in ('ATSSHead', 'FCOSHead'):
        cfg.model.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    return cfg.model


MODELS = dict(
    gfl=lambda: tiny_gfl().model,
    retinanet=lambda: shrunk('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
    atss=lambda: shrunk('mmdet::atss/atss_r50_fpn_1x_coco.py'),
    fcos=lambda: shrunk('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
)


@pytest.fixture(params=MODELS)
def step(request):
    """A model, its preprocessed batch and the view of one training step."""
    model = build(MODELS[request.param](), 'mmdet').train()
    data = model.data_preprocessor(detection_batch(), True)
    with record(model, {'bbox_head': tap_of(model.bbox_head)}) as taps:
        losses = model(**copy.deepcopy(data), mode='loss')
    return request.param, model, data, taps['bbox_head'], losses


def test_view_names_what_the_head_predicted(step):
    _, model, data, view, _ = step
    assert isinstance(view, DenseHeadView)
    assert view.value is view
    rows = sum(m.shape[0] * m.shape[2] * m.shape[3] for m in view.logits) * (
        view.logits[0].shape[1] // 3
    )
    assert view.class_rows.shape == (rows, 3)
    assert view.box_rows.shape[0] == rows
    assert view.labels.shape == view.positives.shape == (rows,)
    assert view.box_targets.shape == (rows, 4)
    # The second prior of a location follows the first, image after image.
    level = view.logits[0]
    priors = level.shape[1] // 3
    expected = level[0, 3 * (priors - 1) : 3 * priors, 0, 0]
    assert torch.equal(view.class_rows[priors - 1], expected)


def test_positives_are_those_of_the_stock_loss(step):
    name, model, data, view, losses = step
    assert 0 < view.positives.sum() < len(view.labels) / 4
    assert set(view.labels[view.positives].tolist()) <= {0, 2}
    if name == 'fcos':  # counts its positives itself
        assert view.avg_factor == view.positives.sum()
        return
    # The stock focal loss from the view's fields alone.
    if name in ('retinanet', 'atss'):
        from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

        target = torch.nn.functional.one_hot(view.labels, 4)[:, :3]
        value = py_sigmoid_focal_loss(
            view.class_rows,
            target.float(),
            view.label_weights,
            avg_factor=view.avg_factor,
        )
        stock = losses['loss_cls']
        torch.testing.assert_close(value, sum(stock))


def test_gfl_box_rows_are_its_distributions(step):
    name, model, _, view, _ = step
    if name != 'gfl':
        assert view.box_rows.shape[1] == 4
        return
    assert view.box_rows.shape[1] == 4 * 17
    flat = view.boxes[0].permute(0, 2, 3, 1).reshape(-1, 68)
    assert torch.equal(view.box_rows[: len(flat)], flat)


def test_a_teacher_has_no_targets():
    model = build(tiny_gfl().model, 'mmdet').eval()
    with record(model, {'bbox_head': DenseHeadView}) as taps:
        model(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert len(taps['bbox_head'].logits) == 5
    with pytest.raises(RuntimeError, match='exist in the student only'):
        _ = taps['bbox_head'].labels


def test_only_dense_heads_have_views():
    model = build(tiny_gfl().model, 'mmdet')
    assert tap_of(model.neck) is Tap
    assert tap_of(model.bbox_head) is DenseHeadView


def test_fcos_teacher_in_eval_returns_training_scale():
    """FCOS multiplies its boxes by the stride in eval mode."""
    from mmkd.batch import Batch
    from mmkd.teacher import Teacher

    model = build(MODELS['fcos'](), 'mmdet').train()
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.bbox_head(model.extract_feat(inputs))[1]
    teacher = Teacher(copy.deepcopy(model))
    taps = teacher.run(Batch(inputs), {'bbox_head': DenseHeadView})
    for ours, theirs in zip(taps['bbox_head'].boxes, expected):
        torch.testing.assert_close(ours, theirs)
    assert not teacher.model.bbox_head.training


def test_an_unknown_layout_of_targets_is_an_error():
    class Head(torch.nn.Module):
        def get_targets(self):  # five parts like RetinaNet's; the first are anchors
            return [torch.zeros(4, 4)], [torch.zeros(4)], None, None, None

    head = Head()
    view = DenseHeadView('head', head)
    view.calls['get_targets'].append(Call((), {}, head.get_targets()))
    with pytest.raises(ValueError, match='unknown layout'):
        _ = view.labels


def test_a_head_that_counts_no_channels_has_logits_all_the_same():
    """CenterNet's heat maps; it has no ``cls_out_channels``."""
    from mmdet.models.dense_heads import CenterNetHead

    with DefaultScope.overwrite_default_scope('mmdet'):
        head = CenterNetHead(in_channels=4, feat_channels=4, num_classes=3)
    view = DenseHeadView('bbox_head', head)
    output = head((torch.zeros(1, 4, 8, 8),))
    view.calls['forward'].append(Call((), {}, output))
    assert [m.shape for m in view.logits] == [(1, 3, 8, 8)]


def test_maps_of_boxes_and_classes_in_one_are_no_logits():
    from mmdet.models.dense_heads import YOLOV3Head

    with DefaultScope.overwrite_default_scope('mmdet'):
        head = YOLOV3Head(3, [8, 8, 8], out_channels=(8, 8, 8))
    view = DenseHeadView('bbox_head', head)
    output = head(tuple(torch.zeros(1, 8, n, n) for n in (2, 4, 8)))
    view.calls['forward'].append(Call((), {}, output))
    with pytest.raises(ValueError, match='YOLOV3Head .* no class logits of their own'):
        _ = view.logits
