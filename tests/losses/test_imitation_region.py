"""Regions of feature imitation, against loops over positions and priors."""

import copy

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from tiny_models import build, detection_batch, losses_of, tiny_gfl, total
from torchvision.ops import nms

from mmkd.batch import Batch
from mmkd.det.views import DenseHeadView
from mmkd.losses import FeatureImitationLoss, feature_imitation_loss
from mmkd.losses.imitation_region import fine_grained_region, general_instance_region
from mmkd.taps import record

STRIDES = (8, 16, 32, 64, 128)


def iou(a, b) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return w * h / (sum(area) - w * h)


@pytest.fixture(scope='module')
def seen():
    """Views of two networks on a padded batch; the first image has no objects."""
    views = []
    raw = detection_batch()
    raw['data_samples'][0].gt_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    for seed in (1, 2):
        model = build(tiny_gfl().model, 'mmdet', seed).train()
        for p in model.bbox_head.gfl_cls.parameters():
            torch.nn.init.normal_(p, std=0.5)
        torch.nn.init.normal_(model.bbox_head.gfl_reg.weight, std=0.3)
        data = model.data_preprocessor(copy.deepcopy(raw), True)
        with torch.no_grad(), record(model, {'bbox_head': DenseHeadView}) as taps:
            model(**copy.deepcopy(data), mode='loss')
        views.append(taps['bbox_head'])
    return *views, Batch(data['inputs'], data['data_samples'])


def positions(view):
    for level, (height, width) in enumerate(view.sizes):
        for n, y, x in np.ndindex(len(view.logits[0]), height, width):
            yield level, n, y, x


def prior(level, y, x):
    stride = STRIDES[level]
    centre = x * stride, y * stride
    return [c + sign * 4 * stride for sign in (-1, 1) for c in centre]


def is_valid(batch, level, n, y, x) -> bool:
    height, width = batch.data_samples[n].pad_shape[:2]
    return y * STRIDES[level] < height and x * STRIDES[level] < width


def test_fine_grained_by_loops(seen):
    view, _, batch = seen
    masks = fine_grained_region(view, batch)
    boxes = [b.tolist() for b in batch.gt_boxes]
    best = [[0.0] * len(b) for b in boxes]
    valid = [p for p in positions(view) if is_valid(batch, *p)]
    for level, n, y, x in valid:
        for g, box in enumerate(boxes[n]):
            best[n][g] = max(best[n][g], iou(prior(level, y, x), box))
    selected = 0
    for level, n, y, x in positions(view):
        expected = is_valid(batch, level, n, y, x) and any(
            iou(prior(level, y, x), box) > 0.5 * best[n][g]
            for g, box in enumerate(boxes[n])
        )
        assert masks[level][n, 0, y, x].item() == expected
        selected += expected
    assert selected > 5
    assert not masks[0][0].any()  # no objects


def test_inside_gt_by_loops(seen):
    view, _, batch = seen
    selected = 0
    for level, logits in enumerate(view.logits):
        mask = batch.inside_gt(logits)
        assert mask.shape == (2, 1, *logits.shape[2:])
        for n, _, y, x in np.ndindex(*mask.shape):
            px, py = x * STRIDES[level], y * STRIDES[level]
            expected = any(
                x1 < px < x2 and y1 < py < y2
                for x1, y1, x2, y2 in batch.gt_boxes[n].tolist()
            )
            assert mask[n, 0, y, x].item() == expected
            selected += expected
    assert selected > 20


def box_of(view, level, n, y, x):
    logits = view.boxes[level][n, :, y, x].reshape(4, 17)
    edges = (logits.softmax(1) * torch.arange(17.0)).sum(1) * STRIDES[level]
    cx, cy = x * STRIDES[level], y * STRIDES[level]
    return torch.stack([cx - edges[0], cy - edges[1], cx + edges[2], cy + edges[3]])


def test_general_instances_by_loops(seen):
    student, teacher, batch = seen
    masks = general_instance_region(student, teacher, batch)
    for level, (height, width) in enumerate(student.sizes):
        for n in range(2):
            found, scores, boxes = [], [], []
            for y, x in np.ndindex(height, width):
                if not is_valid(batch, level, n, y, x):
                    assert not masks[level][n, 0, y, x]
                    continue
                s = student.logits[level][n, :, y, x].sigmoid()
                t = teacher.logits[level][n, :, y, x].sigmoid()
                label = (t - s).abs().argmax()
                winner = teacher if t[label] > s[label] else student
                found.append((y, x))
                scores.append((t - s).abs()[label])
                boxes.append(box_of(winner, level, n, y, x))
            kept = nms(torch.stack(boxes), torch.stack(scores), 0.3)[:10]
            expected = {found[i] for i in kept.tolist()}
            actual = {tuple(p) for p in masks[level][n, 0].nonzero().tolist()}
            assert actual == expected


def test_images_do_not_suppress_each_other(seen):
    student, teacher, batch = seen
    together = general_instance_region(student, teacher, batch)
    for n in range(2):
        alone = []
        for view in (student, teacher):
            single = DenseHeadView('bbox_head', view.module)
            (call,) = view.calls['forward']
            output = tuple([m[n : n + 1] for m in maps] for maps in call.output)
            single.calls['forward'] = [type(call)((), {}, output)]
            alone.append(single)
        part = Batch(batch.inputs[n : n + 1], batch.data_samples[n : n + 1])
        for a, b in zip(general_instance_region(*alone, part), together):
            assert torch.equal(a[0], b[n])


def distilled(region: str, **loss):
    teacher = dict(
        config=dict(model=tiny_gfl(24).model, default_scope='mmdet'),
        checkpoint=None,
        allow_random=True,
    )
    loss = dict(
        dict(type='mmkd.FeatureImitationLoss', at='neck', region=region), **loss
    )
    cfg = dict(
        type='mmkd.DistillDetector',
        student=tiny_gfl().model,
        teacher=teacher,
        losses=dict(loss_hint=loss),
    )
    return build(cfg, 'mmdet')


@pytest.mark.parametrize('region', ['inside_gt', 'fine_grained', 'decoupled', 'gi'])
def test_trains_a_detector(region):
    model = distilled(region)
    values = losses_of(model, detection_batch())
    assert values['loss_hint'] > 0
    values['loss_hint'].backward()
    (loss,) = model.distiller.losses.values()
    assert all(p.grad.abs().sum() > 0 for p in loss.adapter.convs[0].parameters())
    assert model.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('region', ['inside_gt', 'fine_grained', 'decoupled', 'gi'])
def test_a_batch_without_objects_trains(region):
    batch = detection_batch()
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    values = losses_of(distilled(region), batch)
    assert (values['loss_hint'] > 0) == (region in ('decoupled', 'gi'))
    total(values).backward()


def test_the_decoupled_region_is_both_means():
    student, teacher = (
        [torch.randn(2, 4, 6, 8), torch.randn(2, 4, 3, 4)] for _ in range(2)
    )
    batch = Batch(torch.zeros(2, 3, 48, 64), detection_batch()['data_samples'])
    for sample in batch.data_samples:
        sample.set_metainfo(dict(img_shape=(48, 64)))
    loss = FeatureImitationLoss(at='neck', region='decoupled')
    loss.prepare(student, teacher)
    adapted = loss.adapter(student)
    terms = []
    for s, t in zip(adapted, teacher):
        inside = batch.inside_gt(s)
        assert 0 < inside.sum() < inside.numel()
        terms.append(
            feature_imitation_loss(s, t, inside)
            + 2 * feature_imitation_loss(s, t, ~inside)
        )
    expected = sum(terms) / 2
    torch.testing.assert_close(loss(student, teacher, batch), expected)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(region='box'), "region must be one of .* but is 'box'"),
        (dict(region='gi', region_at='neck'), 'dense head.*the tap yields'),
        (dict(region='gi', at='backbone'), r"levels of 'bbox_head' but 'backbone'"),
    ],
)
def test_what_cannot_be_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        distilled(**{'region': 'gi', **arguments})


def test_boxes_are_decoded_in_full_precision_under_autocast(seen):
    view = seen[0]
    expected = view.expected_boxes
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(view.expected_boxes, expected)
