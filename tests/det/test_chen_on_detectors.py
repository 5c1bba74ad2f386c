"""Chen et al.'s terms in stock detectors: against loops, and what must not matter."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from chen_ranks import (
    BOUNDED,
    CASCADE,
    CASCADE_MASK,
    FASTER,
    MASK,
    RCN,
    RETINA,
    RPN,
    SOFT,
    TERMS,
    distilled,
    roughened,
    two_stage,
)
from ld_ranks import batch
from mmengine.structures import InstanceData
from term_ranks import joined, prepared
from tiny_models import build, losses_of, tiny_two_stage, total, with_masks, zoo

from mmkd.batch import Batch
from mmkd.config import method_losses
from mmkd.det import DistillDetector, roi_views
from mmkd.det.roi_views import RoIHeadView
from mmkd.det.views import DenseHeadView
from mmkd.hooks import DistillerStateHook
from mmkd.taps import record

BATCHES = {
    'two sizes': dict(),
    'one without objects': dict(shapes=((96, 96), (64, 128)), seed=2, without=(0,)),
    'none with objects': dict(without=(0, 1)),
    'one image': dict(shapes=((160, 128),), seed=3),
}
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
HEADS = {
    'class-specific': dict(),
    'class-agnostic': dict(reg_class_agnostic=True),
    'sigmoid': dict(loss_cls=SIGMOID),
    'decoded boxes': dict(
        reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=1.0)
    ),
}


def retinanet(width: int = 16, seed: int = 0, classes: int = 3, **head):
    cfg = copy.deepcopy(zoo(RETINA)).model
    cfg.backbone.update(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    cfg.bbox_head.update(
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        num_classes=classes,
        **head,
    )
    return roughened(build(cfg, 'mmdet', seed), seed)


def observed(model, raw: dict, seed: int = 0):
    """Losses of a step, and what both heads predicted and were taught in it."""
    model.train()
    torch.manual_seed(seed)
    data = prepared(model, raw)
    kinds = {RPN: DenseHeadView, RCN: RoIHeadView}
    with record(model, kinds) as ours:
        losses = model(**copy.deepcopy(data), mode='loss')
    teacher = model.distiller.teacher
    theirs = teacher.run(Batch(data['inputs'], data['data_samples']), kinds)
    return losses, ours, theirs, data


# A plain reference: python numbers only.


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def soft_row(student, teacher, binary: bool, weight: float) -> float:
    """One row's soft cross-entropy; of sigmoids, of which the last is background's."""
    if binary:
        value = 0.0
        for c, (s, t) in enumerate(zip(student, teacher)):
            is_background = len(student) > 1 and c == len(student) - 1
            yes, no = (weight, 1.0) if is_background else (1.0, weight)
            value -= yes * sigmoid(t) * math.log(sigmoid(s))
            value -= no * sigmoid(-t) * math.log(sigmoid(-s))
        return value
    p, q = ([math.exp(x) for x in row] for row in (teacher, student))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    weights = [1.0] * (len(p) - 1) + [weight]
    return -sum(w * a * math.log(b) for w, a, b in zip(weights, p, q))


def squared(a, b) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b))


def bounded_row(student, teacher, target, margin: float) -> float:
    error = squared(student, target)
    return error if error + margin > squared(teacher, target) else 0.0


def roi_reference(model, ours, data, stage: int, margin: float):
    """Soft and bounded terms of a stage on the RoIs that the student sampled."""
    call = ours[RCN].calls['loss'][stage]
    logits, boxes, rois, labels, weights, targets = call.args[:6]
    teacher = model.distiller.teacher.model
    cascade = hasattr(teacher.roi_head, 'num_stages')
    pick = (lambda parts: parts[stage]) if cascade else (lambda part: part)
    extractor = pick(teacher.roi_head.bbox_roi_extractor)
    head = pick(teacher.roi_head.bbox_head)
    student_head = pick(model.roi_head.bbox_head)
    with torch.no_grad():
        features = teacher.extract_feat(data['inputs'])
        their_logits, their_boxes = head(
            extractor(features[: extractor.num_inputs], rois)
        )
    binary = getattr(student_head.loss_cls, 'use_sigmoid', False)
    soft = bounded = 0.0
    used = 0
    for n, label in enumerate(labels.tolist()):
        if weights[n] > 0:
            used += 1
            soft += soft_row(
                logits[n].tolist(), their_logits[n].tolist(), binary, 1.5
            ) * float(weights[n])
        if label == student_head.num_classes:
            continue
        target = targets[n : n + 1]
        if student_head.reg_decoded_bbox:
            target = student_head.bbox_coder.encode(rois[n : n + 1, 1:], target)
        found = []
        for predicted, own in ((boxes[n], student_head), (their_boxes[n], head)):
            start = 0 if own.reg_class_agnostic else 4 * label
            found.append(predicted[start : start + 4].tolist())
        bounded += bounded_row(*found, target[0].tolist(), margin)
    return soft / max(used, 1), bounded / max(len(labels), 1)


@pytest.mark.parametrize('kind', BATCHES)
@pytest.mark.parametrize('head', HEADS)
def test_roi_terms_equal_plain_python(head, kind):
    options = HEADS[head]
    # Class-agnostic teachers of class-specific students, and the other way.
    other = dict(options, reg_class_agnostic=head == 'class-specific')
    model = distilled(
        two_stage(seed=1, **options), two_stage(width=24, seed=2, **other)
    )
    losses, ours, _, data = observed(model, batch(**BATCHES[kind]))
    soft, bounded = roi_reference(model, ours, data, 0, margin=0.01)
    assert soft > 0.1
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)
    assert losses['loss_bound_rcn'].item() == pytest.approx(
        0.5 * bounded, rel=1e-4, abs=1e-9
    )
    assert bounded > 0 or kind != 'two sizes'
    assert bounded == 0 or kind != 'none with objects'


def test_every_stage_of_a_cascade_counts_as_its_hard_loss_does():
    model = distilled(two_stage(CASCADE, seed=1), two_stage(CASCADE, 24, seed=2))
    losses, ours, _, data = observed(model, batch())
    soft = bounded = 0.0
    for stage, weight in enumerate((1, 0.5, 0.25)):
        found = roi_reference(model, ours, data, stage, margin=0.01)
        soft, bounded = soft + weight * found[0], bounded + weight * found[1]
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)
    assert losses['loss_bound_rcn'].item() == pytest.approx(0.5 * bounded, rel=1e-4)


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py',
        'mmdet::pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py',
    ],
    ids=['ohem', 'pisa'],
)
def test_samplers_that_ask_the_head_for_losses(name):
    """What they ask for are not the rows that are taught."""
    model = distilled(two_stage(name, seed=1), two_stage(width=24, seed=2))
    with record(model, {RCN: RoIHeadView}) as ours:
        losses = losses_of(model, batch())
    view = ours[RCN]
    (stage,) = view.stages
    assert len(view.calls['loss']) == 3  # one for each image before
    assert len(stage.rois) == 64
    data = prepared(model, batch())
    ours[RCN].calls['loss'] = view.calls['loss'][-1:]
    soft, bounded = roi_reference(model, ours, data, 0, margin=0.01)
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)
    assert losses['loss_bound_rcn'].item() == pytest.approx(0.5 * bounded, rel=1e-4)


def test_one_stage_of_a_cascade():
    at = f'{RCN}.1'
    terms = dict(
        loss_soft=dict(type=SOFT, at=at),
        loss_bound=dict(type=BOUNDED, at=at, margin=0.01),
    )
    model = distilled(two_stage(CASCADE, seed=1), two_stage(CASCADE, 24, seed=2), terms)
    losses, ours, _, data = observed(model, batch())
    soft, bounded = roi_reference(model, ours, data, 1, margin=0.01)
    assert losses['loss_soft'].item() == pytest.approx(0.5 * soft, rel=1e-4)
    assert losses['loss_bound'].item() == pytest.approx(0.25 * bounded, rel=1e-4)


@pytest.mark.parametrize('kind', BATCHES)
@pytest.mark.parametrize('rpn', ['one logit', 'two logits'])
def test_rpn_terms_equal_plain_python(rpn, kind):
    models = [two_stage(seed=1), two_stage(width=24, seed=2)]
    if rpn == 'two logits':
        softmax = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
        models = [with_rpn(16, 1, loss_cls=softmax), with_rpn(24, 2, loss_cls=softmax)]
    model = distilled(*models)
    losses, ours, theirs, _ = observed(model, batch(**BATCHES[kind]))
    s, t = ours[RPN], theirs[RPN]
    targets = s.calls['get_targets'][0].output
    soft = bounded = 0.0
    row = 0
    logits, their_logits = s.class_rows.tolist(), t.class_rows.tolist()
    boxes, their_boxes = s.box_rows.tolist(), t.box_rows.tolist()
    for labels, weights, wanted in zip(*targets[:3]):
        for label, weight, target in zip(
            labels.flatten().tolist(),
            weights.flatten().tolist(),
            wanted.reshape(-1, 4).tolist(),
        ):
            if weight:
                value = soft_row(
                    logits[row], their_logits[row], rpn == 'one logit', 1.5
                )
                soft += weight * value
            if label == 0:
                bounded += bounded_row(boxes[row], their_boxes[row], target, 0.01)
            row += 1
    assert row == len(logits)
    assert losses['loss_soft_rpn'].item() == pytest.approx(soft / targets[4], rel=1e-4)
    assert losses['loss_bound_rpn'].item() == pytest.approx(
        0.5 * bounded / targets[4], rel=1e-4, abs=1e-9
    )
    assert bounded > 0 or kind != 'two sizes'
    assert bounded == 0 or kind != 'none with objects'


def with_rpn(width: int, seed: int, **rpn_head):
    cfg = tiny_two_stage(width)
    cfg.model.rpn_head.update(rpn_head)
    return roughened(build(cfg.model, 'mmdet', seed), seed)


@pytest.mark.parametrize('name', [FASTER, CASCADE])
def test_the_teacher_scores_the_rois_that_the_student_sampled(name, monkeypatch):
    model = distilled(two_stage(name, seed=1), two_stage(name, 24, seed=2))
    roi_head = model.distiller.teacher.model.roi_head
    stock, seen = roi_head._bbox_forward, []

    def watched(*args):
        seen.append(args[-1])
        return stock(*args)

    monkeypatch.setattr(roi_head, '_bbox_forward', watched)
    torch.manual_seed(0)
    with record(model, {RCN: RoIHeadView}) as ours:
        whole = losses_of(model, batch())
    sampled = [call.args[2] for call in ours[RCN].calls['loss']]
    # One call of a stage for all images and both terms.
    assert len(seen) == len(sampled) == (3 if name == CASCADE else 1)
    for rois, expected in zip(seen, sampled):
        assert torch.equal(rois, expected)
        assert set(rois[:, 0].tolist()) == {0, 1}
    # And a part of them at a time, which is nothing but smaller.
    monkeypatch.setattr(roi_views, 'ROIS_AT_ONCE', 10)
    seen.clear()
    torch.manual_seed(0)
    in_parts = losses_of(model, batch())
    assert max(map(len, seen)) == 10
    assert torch.equal(torch.cat(seen), torch.cat(sampled))
    for term in model.distiller.losses:
        torch.testing.assert_close(in_parts[term], whole[term], rtol=1e-5, atol=0)


DETECTORS = dict(
    faster=lambda w, s: two_stage(FASTER, w, s),
    cascade=lambda w, s: two_stage(CASCADE, w, s),
    mask=lambda w, s: two_stage(MASK, w, s),
    cascade_mask=lambda w, s: two_stage(CASCADE_MASK, w, s),
)


@pytest.mark.parametrize('mode', ['weight 0', 'weight 0 with mu', 'beside the terms'])
@pytest.mark.parametrize('kind', DETECTORS)
def test_the_stock_part_is_stock_bit_for_bit(kind, mode):
    """Proposals, sampled RoIs, losses and their gradients."""
    student, teacher = DETECTORS[kind](16, 1), DETECTORS[kind](24, 2)
    if mode == 'beside the terms':
        model = distilled(student, teacher)
    else:
        terms = TERMS
        if mode == 'weight 0 with mu':
            terms = {
                k: dict(c, **dict(mu=0.5) if c['type'] == SOFT else {})
                for k, c in TERMS.items()
            }
        model = distilled(student, teacher, terms, loss_weight=0)
    raw = with_masks(batch())
    kinds = {RCN: RoIHeadView}
    found = []
    for network in (student, model):
        with record(network, kinds) as taps:
            losses = losses_of(network, raw)
        stock = {k: v for k, v in losses.items() if k not in TERMS}
        network.zero_grad()
        total(stock).backward()
        rois = [call.args[2] for call in taps[RCN].calls['loss']]
        gradients = {k: p.grad for k, p in network.named_parameters()}
        found.append((stock, rois, gradients))
    (stock, rois, gradients), (ours, our_rois, our_gradients) = found
    for name, value in stock.items():
        values = value if isinstance(value, list) else [value]
        mine = ours[name] if isinstance(value, list) else [ours[name]]
        assert all(torch.equal(a, b) for a, b in zip(mine, values)), name
    assert all(torch.equal(a, b) for a, b in zip(our_rois, rois))
    for name, gradient in gradients.items():
        assert torch.equal(our_gradients[name], gradient), name


@pytest.mark.parametrize('name', [FASTER, CASCADE])
def test_mu_divides_the_classification_between_truth_and_teacher(name):
    student, teacher = two_stage(name, seed=1), two_stage(name, 24, seed=2)
    plain = losses_of(distilled(student, teacher), batch())
    terms = {
        key: dict(cfg, mu=0.8, loss_weight=3.0) if cfg['type'] == SOFT else cfg
        for key, cfg in TERMS.items()
    }
    mixed = losses_of(distilled(student, teacher, terms), batch())
    scaled = []
    for key, value in plain.items():
        factor = 1.0
        if 'cls' in key and 'loss' in key:
            factor = 0.8
            scaled.append(key)
        elif 'soft' in key:
            factor = 0.2 * 3
        if not isinstance(value, list):
            value, mixed[key] = [value], [mixed[key]]
        for a, b in zip(mixed[key], value):
            torch.testing.assert_close(a, factor * b)
    stages = 3 if name == CASCADE else 1
    assert len(scaled) == 1 + stages


def test_a_ramp_moves_mu_and_an_end_gives_the_hard_loss_back():
    terms = dict(loss_soft=dict(type=SOFT, at=RCN, mu=0.6))
    student, teacher = two_stage(seed=1), two_stage(width=24, seed=2)
    model = distilled(student, teacher, terms)
    hard = losses_of(student, batch())['loss_cls']
    soft = losses_of(model, batch())['loss_soft'] / 0.4
    for factor in (1.0, 0.5, 0.25, 0.0):
        model.distiller.factors['loss_soft'] = factor
        losses = losses_of(model, batch())
        mu = 1 - factor * 0.4
        torch.testing.assert_close(losses['loss_cls'], mu * hard)
        torch.testing.assert_close(losses['loss_soft'], (1 - mu) * soft)
    assert torch.equal(losses['loss_cls'], hard)


def test_the_log_tells_on_how_many_positives_the_bound_is_active():
    model = distilled(two_stage(seed=1), two_stage(width=24, seed=2))
    losses, ours, _, data = observed(model, batch())
    assert 0 < losses['bound_rcn_active'] < 1
    assert 'loss' not in 'bound_rcn_active'
    always = {k: dict(c, margin=1e6) for k, c in TERMS.items() if c['type'] == BOUNDED}
    full = losses_of(distilled(two_stage(seed=1), two_stage(seed=2), always), batch())
    assert full['bound_rcn_active'] == full['bound_rpn_active'] == 1
    empty = losses_of(model, batch(without=(0, 1)))
    assert 'bound_rcn_active' not in empty  # no positives have no share


def test_a_teacher_equal_to_the_student_leaves_no_bound():
    terms = {k: dict(c, margin=0.0) for k, c in TERMS.items() if c['type'] == BOUNDED}
    model = distilled(two_stage(seed=1), two_stage(seed=1), terms)
    losses = losses_of(model, batch())
    assert losses['loss_bound_rpn'] == losses['loss_bound_rcn'] == 0
    assert losses['bound_rcn_active'] == 0


def test_a_coder_of_other_deviations_is_converted():
    coder = dict(
        type='DeltaXYWHBBoxCoder',
        target_means=[0.0, 0.1, 0.0, 0.0],
        target_stds=[0.2, 0.2, 0.4, 0.4],
    )
    student = two_stage(seed=1)
    teacher = two_stage(width=24, seed=2, bbox_coder=coder)
    model = distilled(student, teacher, {'loss_bound_rcn': TERMS['loss_bound_rcn']})
    losses, ours, _, data = observed(model, batch())
    call = ours[RCN].calls['loss'][0]
    boxes, rois, labels, targets = (call.args[i] for i in (1, 2, 3, 5))
    with torch.no_grad():
        found = teacher.roi_head._bbox_forward(
            teacher.extract_feat(data['inputs']), rois
        )['bbox_pred']
    expected = 0.0
    for n, label in enumerate(labels.tolist()):
        if label < 3:
            part = slice(4 * label, 4 * label + 4)
            roi = rois[n : n + 1, 1:]
            head = teacher.roi_head.bbox_head
            box = head.bbox_coder.decode(roi, found[n : n + 1, part])
            delta = student.roi_head.bbox_head.bbox_coder.encode(roi, box)
            expected += bounded_row(
                boxes[n, part].tolist(), delta[0].tolist(), targets[n].tolist(), 0.01
            )
    assert losses['loss_bound_rcn'].item() == pytest.approx(
        0.5 * expected / len(labels), rel=1e-3
    )


def test_a_teacher_of_other_classes_is_mapped():
    """Two of the teacher's five classes have no place in the student."""
    student, teacher = two_stage(seed=1), two_stage(width=24, seed=2, classes=5)
    teacher.dataset_meta = dict(classes=('a', 'b', 'c', 'd', 'e'))
    terms = {k: c for k, c in TERMS.items() if c['at'] == RCN}
    by_index = distilled(student, teacher, terms, teacher_classes=[4, 0, 2])
    by_name = distilled(student, teacher, terms, teacher_classes=['e', 'a', 'c'])
    losses, ours, _, data = observed(by_index, batch())
    for name in terms:
        assert torch.equal(losses_of(by_name, batch())[name], losses[name])
    call = ours[RCN].calls['loss'][0]
    logits, boxes, rois, labels, _, targets = call.args[:6]
    with torch.no_grad():
        features = teacher.extract_feat(data['inputs'])
        found = teacher.roi_head._bbox_forward(features, rois)
    soft = bounded = 0.0
    for n, label in enumerate(labels.tolist()):
        theirs = found['cls_score'][n].tolist()
        rest = math.log(sum(math.exp(theirs[c]) for c in (1, 3, 5)))
        mapped = [theirs[4], theirs[0], theirs[2], rest]
        soft += soft_row(logits[n].tolist(), mapped, False, 1.5)
        if label < 3:
            start = 4 * [4, 0, 2][label]
            bounded += bounded_row(
                boxes[n, 4 * label : 4 * label + 4].tolist(),
                found['bbox_pred'][n, start : start + 4].tolist(),
                targets[n].tolist(),
                0.01,
            )
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft / len(labels), rel=1e-4)
    assert losses['loss_bound_rcn'].item() == pytest.approx(
        0.5 * bounded / len(labels), rel=1e-4
    )


def test_one_stage_anchor_heads_take_the_same_terms():
    terms = dict(
        loss_soft=dict(type=SOFT, at='bbox_head'),
        loss_bound=dict(type=BOUNDED, at='bbox_head', margin=0.01),
    )
    model = distilled(retinanet(seed=1), retinanet(24, seed=2), terms).train()
    data = prepared(model, batch())
    with record(model, {'bbox_head': DenseHeadView}) as ours:
        losses = model(**data, mode='loss')
    batched = Batch(data['inputs'], data['data_samples'])
    theirs = model.distiller.teacher.run(batched, {'bbox_head': DenseHeadView})
    s, t = ours['bbox_head'], theirs['bbox_head']
    labels, weights, targets, _, factor = s.calls['get_targets'][0].output
    labels, weights = (torch.cat([x.flatten() for x in y]) for y in (labels, weights))
    assert not weights.all()  # between the thresholds an anchor counts for nothing
    targets = torch.cat([x.reshape(-1, 4) for x in targets])
    p, q = t.class_rows.double().sigmoid(), s.class_rows.double().sigmoid()
    rows = -(p * q.log() + 1.5 * (1 - p) * (1 - q).log()).sum(1)
    soft = (rows * weights).sum() / factor
    assert losses['loss_soft'].item() == pytest.approx(soft.item(), rel=1e-4)
    bounded = 0.0
    for row in (labels < 3).nonzero().flatten().tolist():
        rows = (x[row].tolist() for x in (s.box_rows, t.box_rows, targets))
        bounded += bounded_row(*rows, 0.01)
    assert losses['loss_bound'].item() == pytest.approx(
        0.5 * bounded / factor, rel=1e-4
    )


def test_whole_maps_and_picked_rows_give_the_same_term_and_gradient(monkeypatch):
    teacher, seen = retinanet(24, seed=2), []
    terms = dict(loss_soft=dict(type=SOFT, at='bbox_head', temperature=2.0))
    model = distilled(retinanet(seed=1), teacher, terms).train()
    loss, of_maps = model.distiller.losses['loss_soft'], []
    monkeypatch.setattr(
        loss, '_of_maps', lambda *a: of_maps.append(1) or type(loss)._of_maps(loss, *a)
    )
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(loss, '_takes_maps', lambda *_: False)
        value = losses_of(model, batch())['loss_soft']
        weights = [p for p in model.bbox_head.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
        seen.append([value, *[s for s in slopes if s is not None]])
    assert of_maps == [1]
    torch.testing.assert_close(*seen)


def test_a_one_stage_teacher_of_other_classes_is_mapped():
    terms = dict(loss_soft=dict(type=SOFT, at='bbox_head', teacher_classes=[4, 0, 2]))
    teacher = retinanet(24, seed=2, classes=5)
    model = distilled(retinanet(seed=1), teacher, terms)
    value = losses_of(model, batch())['loss_soft']
    # The same teacher with its rows of weights in the student's order.
    sorted_teacher = retinanet(24, seed=2)
    state = teacher.state_dict()
    for part in ('weight', 'bias'):
        key = f'bbox_head.retina_cls.{part}'
        state[key] = state[key].unflatten(0, (9, 5))[:, [4, 0, 2]].flatten(0, 1)
    sorted_teacher.load_state_dict(state)
    terms = dict(loss_soft=dict(type=SOFT, at='bbox_head'))
    expected = losses_of(distilled(retinanet(seed=1), sorted_teacher, terms), batch())
    torch.testing.assert_close(value, expected['loss_soft'])


def test_no_gradient_reaches_the_teacher_and_every_term_the_student():
    model = distilled(two_stage(seed=1), two_stage(width=24, seed=2))
    losses = losses_of(model, batch())
    for name in TERMS:
        model.zero_grad()
        losses[name].backward(retain_graph=True)
        gradients = [p.grad for p in model.backbone.parameters()]
        assert max(g.norm() for g in gradients if g is not None) > 0
    assert all(p.grad is None for p in model.distiller.teacher.model.parameters())


@pytest.mark.parametrize('name', [FASTER, CASCADE])
def test_autocast(name):
    model = distilled(two_stage(name, seed=1), two_stage(name, 24, seed=2))
    exact = losses_of(model, batch())
    with torch.autocast('cpu', torch.bfloat16):
        with record(model, {RCN: RoIHeadView}) as ours:
            half = losses_of(model, batch())
        view, data = ours[RCN], prepared(model, batch())
        batched = Batch(data['inputs'], data['data_samples'])
        scored = model.distiller.teacher.run(batched, {RCN: RoIHeadView}, {RCN: 1})[RCN]
        with torch.no_grad():
            scored.follow(view)
    total(half).backward()
    for term in TERMS:
        assert half[term].dtype == torch.float32
        assert half[term].isfinite()
        # Proposals are other ones: only the size of it is the same.
        assert half[term].item() == pytest.approx(exact[term].item(), rel=0.5, abs=0.05)
    soft = 0.0
    for stage, theirs in zip(view.stages, scored.stages):
        assert stage.class_rows.dtype == torch.bfloat16
        rows = zip(stage.class_rows.tolist(), theirs.class_rows.tolist())
        value = sum(soft_row(s, t, False, 1.5) for s, t in rows)
        soft += stage.weight * value / len(stage.rois)
    assert half['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)
    assert all(
        p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
    )


def test_a_teacher_on_features_of_other_strides():
    """RoIs are in pixels: a teacher without a neck scores them on one map."""
    cfg = copy.deepcopy(zoo('mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'))
    cfg = cfg.model
    cfg.backbone.init_cfg = cfg.roi_head.shared_head.init_cfg = None
    cfg.roi_head.bbox_head.num_classes = 3
    teacher = build(cfg, 'mmdet', 2)
    terms = {k: c for k, c in TERMS.items() if c['at'] == RCN}
    model = distilled(two_stage(seed=1), teacher, terms)
    with record(model, {RCN: RoIHeadView}) as ours:
        losses = losses_of(model, batch())
    rois = ours[RCN].calls['loss'][0].args[2]
    data = prepared(model, batch())
    with torch.no_grad():
        # Caffe's weights want other pixels than the student's.
        batched = Batch(data['inputs'], data['data_samples'])
        inputs = model.distiller.teacher._renormalize(batched)
        found = teacher.eval().roi_head._bbox_forward(
            teacher.extract_feat(inputs), rois
        )
    logits = ours[RCN].stages[0].class_rows
    rows = zip(logits.tolist(), found['cls_score'].tolist())
    soft = sum(soft_row(s, t, False, 1.5) for s, t in rows) / len(rois)
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)


def test_branches_that_a_teacher_fuses_are_computed():
    """Of a hybrid task cascade, the semantic one."""
    name = 'mmdet::htc/htc_r50_fpn_1x_coco.py'
    cfg = copy.deepcopy(zoo(name)).model
    cfg.backbone.init_cfg = None
    for head in cfg.roi_head.bbox_head:
        head.num_classes = 3
    teacher = build(cfg, 'mmdet', 2)
    terms = {'loss_soft_rcn': TERMS['loss_soft_rcn']}
    model = distilled(two_stage(CASCADE, seed=1), teacher, terms)
    with record(model, {RCN: RoIHeadView}) as ours:
        losses = losses_of(model, batch())
    data = prepared(model, batch())
    soft = 0.0
    with torch.no_grad():
        features = teacher.eval().extract_feat(data['inputs'])
        semantic = teacher.roi_head.semantic_head(features)[1]
        for stage, weight in zip(ours[RCN].stages, (1, 0.5, 0.25)):
            index = list(model.roi_head.bbox_head).index(stage.head)
            found = teacher.roi_head._bbox_forward(
                index, features, stage.rois, semantic
            )
            rows = zip(stage.class_rows.tolist(), found['cls_score'].tolist())
            value = sum(soft_row(s, t, False, 1.5) for s, t in rows)
            soft += weight * value / len(stage.rois)
    assert losses['loss_soft_rcn'].item() == pytest.approx(soft, rel=1e-4)


GUIDED = 'mmdet::guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco.py'
OTHER_ANCHORS = dict(
    type='AnchorGenerator',
    scales=[4],
    ratios=[0.5, 1.0, 2.0],
    strides=[4, 8, 16, 32, 64],
)


def stock(name: str):
    cfg = copy.deepcopy(zoo(name)).model
    cfg.backbone.init_cfg = None
    if 'shared_head' in cfg.get('roi_head', {}):
        cfg.roi_head.shared_head.init_cfg = None
    model = build(cfg, 'mmdet', 2)
    for module in model.modules():
        if type(module).__name__ == 'TridentConv':
            # Its own constructor leaves the weights as the memory was: NaN at times.
            torch.nn.init.normal_(module.weight, std=0.01)
    return model


@pytest.mark.parametrize(
    ('teacher', 'terms', 'message'),
    [
        (
            lambda: two_stage(seed=2, classes=5),
            dict(loss=dict(type=SOFT, at=RCN)),
            'with 3 and 5 classes; say what each .* teacher_classes',
        ),
        (
            lambda: two_stage(seed=2, classes=5),
            dict(loss=dict(type=SOFT, at=RCN, teacher_classes=[0, 1, 7])),
            r'teacher_classes must name 3 different classes.* is \[0, 1, 7\]',
        ),
        (
            lambda: two_stage(seed=2, classes=5),
            dict(loss=dict(type=BOUNDED, at=RCN, teacher_classes=['cat', 'dog', 'a'])),
            'by name .none stored., by index below 5',
        ),
        (
            lambda: two_stage(CASCADE, seed=2),
            dict(loss=dict(type=SOFT, at=RCN)),
            'same number of stages .* with 1 and 3',
        ),
        (
            lambda: two_stage(seed=2, loss_cls=SIGMOID),
            dict(loss=dict(type=SOFT, at=RCN)),
            'both heads must classify by sigmoids or both by a softmax',
        ),
        (
            lambda: with_rpn(24, 2, anchor_generator=OTHER_ANCHORS),
            dict(loss=dict(type=BOUNDED, at=RPN)),
            'the same anchors but .*give both heads the same anchor generator',
        ),
        (
            lambda: retinanet(seed=2),
            dict(loss=dict(type=SOFT, at=RCN, teacher_at='bbox_head')),
            'both heads must be dense or both of RoIs .*Shared2FC.* RetinaHead',
        ),
        (
            lambda: two_stage(seed=2),
            dict(loss=dict(type=SOFT, at='neck')),
            "the student must be tapped at a box head.*'neck' yields",
        ),
        (
            lambda: stock('mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py'),
            dict(loss=dict(type=SOFT, at=RCN)),
            f"teacher is tapped at '{RCN}', but SABLHead has a loss of its own; only",
        ),
        (
            lambda: stock('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'),
            dict(loss=dict(type=SOFT, at=RCN)),
            'DIIHead has a loss of its own',
        ),
        (
            lambda: stock('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py'),
            dict(loss=dict(type=SOFT, at=RCN)),
            'TridentRoIHead trains on several copies of every image',
        ),
        (
            lambda: stock(
                'mmdet::guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco.py'
            ),
            dict(loss=dict(type=SOFT, at=RPN)),
            'GARPNHead predicts its anchors',
        ),
    ],
)
def test_sides_that_do_not_fit_are_an_error_when_built(teacher, terms, message):
    with pytest.raises(ValueError, match=message):
        DistillDetector(two_stage(seed=1), teacher(), terms)


@pytest.mark.parametrize(
    'name',
    [
        'autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
        'free_anchor/freeanchor_r50_fpn_1x_coco.py',
        'fsaf/fsaf_r50_fpn_1x_coco.py',
        'paa/paa_r50_fpn_1x_coco.py',
        'pisa/retinanet-r50_fpn_pisa_1x_coco.py',
        'ssd/ssd300_coco.py',
        'tood/tood_r50_fpn_1x_coco.py',
    ],
)
@pytest.mark.parametrize('term', [SOFT, 'mmkd.ClassificationDistillationLoss'])
def test_dense_heads_of_their_own_kind_are_an_error_when_built(name, term):
    models = [stock(f'mmdet::{name}') for _ in range(2)]
    terms = dict(loss=dict(type=term, at='bbox_head'))
    with pytest.raises(ValueError, match='Head has targets and a loss of its own'):
        DistillDetector(*models, terms)


def test_heads_without_deltas_are_an_error_when_built():
    gfl = copy.deepcopy(zoo('mmdet::gfl/gfl_r50_fpn_1x_coco.py')).model
    gfl.backbone.update(depth=18, init_cfg=None)
    gfl.neck.in_channels = [64, 128, 256, 512]
    models = [build(gfl, 'mmdet', seed) for seed in (1, 2)]
    terms = dict(loss=dict(type=BOUNDED, at='bbox_head'))
    with pytest.raises(ValueError, match='must predict deltas of boxes.*GFLHead'):
        DistillDetector(*models, terms)


def test_the_preset_is_the_whole_paper():
    losses = method_losses('chen2017', 'mmdet')
    model = DistillDetector(two_stage(seed=1), two_stage(width=24, seed=2), losses)
    values = losses_of(model, batch())
    assert all(values[name] > 0 for name in losses)
    stock = losses_of(two_stage(seed=1), batch())
    torch.testing.assert_close(values['loss_cls'], 0.8 * stock['loss_cls'])
    assert torch.equal(values['loss_bbox'], stock['loss_bbox'])


def test_images_of_a_batch_do_not_mix():
    """The same images twice have the same mean, whatever is sampled twice."""
    raw = batch(without=(0,))
    model = distilled(two_stage(seed=1), two_stage(width=24, seed=2))
    for head in (model.rpn_head.sampler, model.roi_head.bbox_sampler):
        head.random_choice = lambda gallery, num: gallery[:num]
    once, twice = losses_of(model, raw), losses_of(model, joined(raw, raw))
    for name in TERMS:
        torch.testing.assert_close(twice[name], once[name], rtol=1e-4, atol=1e-7)


def test_anchors_that_the_assigner_ignores_count_for_nothing():
    """Crowds, in the RPN: their anchors have no label weight and no term."""
    raw = batch()
    for sample in raw['data_samples']:
        sample.ignored_instances = InstanceData(
            bboxes=torch.tensor([[0.0, 0, 90, 90]]), labels=torch.tensor([0])
        )
    terms = {'loss_soft_rpn': TERMS['loss_soft_rpn']}
    model = distilled(two_stage(seed=1), two_stage(width=24, seed=2), terms)
    head = model.rpn_head
    head.assigner.ignore_iof_thr = 0.5
    head.sampler.num = 100_000  # all that are left
    with record(model, {RPN: DenseHeadView}) as ours:
        losses = losses_of(model, raw)
    view = ours[RPN]
    data = prepared(model, raw)
    batched = Batch(data['inputs'], data['data_samples'])
    theirs = model.distiller.teacher.run(batched, {RPN: DenseHeadView})[RPN]
    weights = view.label_weights.tolist()
    ignored = weights.count(0.0)
    assert ignored > 100
    rows = zip(view.class_rows.tolist(), theirs.class_rows.tolist(), weights)
    soft = sum(soft_row(s, t, True, 1.5) for s, t, weight in rows if weight)
    expected = soft / (len(weights) - ignored)
    assert losses['loss_soft_rpn'].item() == pytest.approx(expected, rel=1e-4)


def test_class_agnostic_boxes_need_no_map_of_classes():
    options = dict(reg_class_agnostic=True)
    student = two_stage(seed=1, **options)
    teacher = two_stage(width=24, seed=2, classes=5, **options)
    terms = {'loss_bound_rcn': TERMS['loss_bound_rcn']}
    assert losses_of(distilled(student, teacher, terms), batch())['loss_bound_rcn'] > 0


def test_classes_of_other_names_are_an_error_when_training_starts():
    student, teacher = two_stage(seed=1), two_stage(width=24, seed=2)
    teacher.dataset_meta = dict(classes=('car', 'cat', 'dog'))
    model = distilled(student, teacher)
    check = model.distiller.check_classes
    check(('car', 'cat', 'dog'))
    check(None)  # a data set that names none
    for names in (('cat', 'car', 'dog'), ('car', 'cat', 'cow')):
        with pytest.raises(
            ValueError, match='loss_soft_rcn.*: .* same classes in the same'
        ):
            check(names)
    data = SimpleNamespace(metainfo=dict(classes=('cat', 'car', 'dog')))
    runner = SimpleNamespace(
        model=model, train_dataloader=SimpleNamespace(dataset=data)
    )
    with pytest.raises(
        ValueError, match='loss_soft_rcn.*: .* same classes in the same'
    ):
        DistillerStateHook().before_train(runner)
    rpn_alone = {k: c for k, c in TERMS.items() if c['at'] == RPN}
    distilled(student, teacher, rpn_alone).distiller.check_classes(('a', 'b', 'c'))
    said = {k: dict(c, teacher_classes=[1, 0, 2]) for k, c in TERMS.items()}
    for name in rpn_alone:
        del said[name]
    distilled(student, teacher, said).distiller.check_classes(('cat', 'car', 'dog'))


def test_building_runs_no_second_stage(monkeypatch):
    """A thousand proposals per image, of both networks, for nothing."""
    models, seen = [two_stage(MASK, seed=1), two_stage(MASK, 24, seed=2)], []
    for model in models:
        monkeypatch.setattr(model.roi_head, 'forward', lambda *args: seen.append(args))
    DistillDetector(*models, method_losses('chen2017', 'mmdet'))
    assert not seen
