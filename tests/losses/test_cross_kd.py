"""CrossKD: its functions against plain Python, the class against heads by hand."""

import copy
import math
import statistics

import pytest
import torch
from mmdet.models.losses import GIoULoss
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from tiny_models import (
    detection_batch,
    distilled_detector,
    tiny_gfl,
    zoo,
)

from mmkd.det.views import DenseHeadView
from mmkd.losses import CrossKDLoss, quality_focal_distillation_loss
from mmkd.losses.cross_kd import aligned
from mmkd.taps import record

FUNCTION = quality_focal_distillation_loss
# Rows, classes, beta, weighted.
CASES = [(5, 4, 1.0, False), (3, 1, 2.0, False), (4, 3, 1.5, True)]
MUTATIONS = {
    'no focus': ('focus if beta == 1', '1 if beta == 1'),
    'linear focus': ('focus.pow(beta)', 'focus'),
    'mean over classes': ('terms.sum(1)', 'terms.mean(1)'),
    'the target is logits': ('teacher.detach().sigmoid()', 'teacher.detach()'),
    'no weight': ('averaged_rows(rows, weight', 'averaged_rows(rows, None'),
    'distance of logits': ('student.sigmoid() - target', 'student - target'),
}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def compare(function, rows, classes, beta, weighted) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, rows, classes, dtype=torch.float64) * 2
    weight = torch.rand(rows, dtype=torch.float64) if weighted else None
    total = 0.0
    for n in range(rows):
        for x, y in zip(s[n].tolist(), t[n].tolist()):
            q, p = sigmoid(x), sigmoid(y)
            entropy = -(p * math.log(q) + (1 - p) * math.log(1 - q))
            total += (
                (weight[n].item() if weighted else 1) * abs(p - q) ** beta * entropy
            )
    actual = function(s, t, beta, weight).item()
    assert actual == pytest.approx(total / rows, rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(quality_focal_distillation_loss, *case)


def test_a_map_takes_mean_and_deviation_of_the_other():
    s, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64) * 3 + 1
    found = aligned(s, t)
    for c in range(3):
        ours, theirs = s[:, c].flatten().tolist(), t[:, c].flatten().tolist()
        mean, deviation = statistics.fmean(ours), statistics.stdev(ours)
        expected = [
            (x - mean) / (deviation + 1e-6) * statistics.stdev(theirs)
            + statistics.fmean(theirs)
            for x in ours
        ]
        assert found[:, c].flatten().tolist() == pytest.approx(expected, rel=1e-9)


HEAD = dict(stacked_convs=4)
TERM = dict(type='mmkd.CrossKDLoss', index=3)


def retinanet(width: int):
    cfg = copy.deepcopy(zoo('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'))
    cfg.model.backbone.update(
        depth=18, base_channels=8, frozen_stages=-1, init_cfg=None
    )
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    cfg.model.bbox_head.update(in_channels=width, feat_channels=width, num_classes=3)
    return cfg


def gfl(width: int):
    return tiny_gfl(width, bbox_head=HEAD)


def distilled(make, term, width=24, **options):
    model = distilled_detector(make(16), make(width), {'loss_cross': term}, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in (model, model.distiller.teacher.model):
            for name, p in network.named_parameters():
                if 'bbox_head' in name:
                    noise = torch.randn(p.shape, generator=generator) * 0.1
                    p.add_(noise.to(p.dtype))
    return model.train()


def stepped(model, raw=None):
    torch.manual_seed(0)
    data = model.data_preprocessor(copy.deepcopy(raw or detection_batch()), True)
    return model(**copy.deepcopy(data), mode='loss'), data


def tower(convs, x, index):
    """Pre-activation behind the index-th convolution, by hand."""
    for number, module in enumerate(convs, 1):
        x = module.conv(x)
        x = module.norm(x) if module.with_norm else x
        if number == index:
            return x
        x = x.relu()
    raise AssertionError


def by_hand(model, data, index, scales, classify, regress):
    """Outputs of the teacher's head on the student's features and on its own."""
    student, teacher = model.bbox_head, model.distiller.teacher.model.bbox_head
    loss = model.distiller.losses['loss_cross']
    torch.manual_seed(0)
    features = model.extract_feat(data['inputs'])
    with torch.no_grad():
        theirs = model.distiller.teacher.model.extract_feat(data['inputs'])
    outputs = []
    for name, last in (('cls_convs', classify), ('reg_convs', regress)):
        ours = [tower(getattr(student, name), x, index) for x in features]
        maps = loss.adapters[name](tuple(ours)) if name in loss.adapters else ours
        convs = getattr(teacher, name)
        pairs = []
        for level, (s, x) in enumerate(zip(maps, theirs)):
            t = tower(convs, x, index)
            crossed = []
            for y in (aligned(s, t), t):
                y = y.relu()
                for module in convs[index:]:
                    y = module(y)
                y = last(y)
                if last is regress and scales is not None:
                    y = scales[level](y)
                crossed.append(y)
            pairs.append(crossed)
        outputs.append(pairs)
    return outputs


def rows(pairs, width):
    """Of all levels: both sides, (rows, width)."""
    return [
        torch.cat([p[k].permute(0, 2, 3, 1).reshape(-1, width) for p in pairs])
        for k in range(2)
    ]


def view_of(model, data):
    """The student's head in a step."""
    torch.manual_seed(0)
    with record(model, {'bbox_head': DenseHeadView}) as taps:
        model(**copy.deepcopy(data), mode='loss')
    return taps['bbox_head']


def test_distributions_equal_the_stock_modules_by_hand():
    model = distilled(gfl, TERM)
    losses, data = stepped(model)
    head = model.distiller.teacher.model.bbox_head
    classes, edges = by_hand(model, data, 3, head.scales, head.gfl_cls, head.gfl_reg)
    (s, t), (es, et) = rows(classes, 3), rows(edges, head.reg_max + 1)
    view = view_of(model, data)
    expected = quality_focal_distillation_loss(
        s, t, weight=view.label_weights, avg_factor=view.avg_factor
    )
    trust = t.sigmoid().amax(1) * (view.label_weights > 0)
    log_s, log_t = es.log_softmax(1), et.log_softmax(1)
    kl = (log_t.exp() * (log_t - log_s)).sum(1).view(-1, 4).mean(1)
    expected = expected + 4 * (kl * trust).sum() / trust.sum()
    torch.testing.assert_close(losses['loss_cross'], expected, rtol=1e-4, atol=1e-6)


def test_deltas_are_compared_as_boxes():
    term = dict(TERM, cls_weight=0.0, box_weight=1.0, index=2)
    model = distilled(retinanet, term, width=16)
    losses, data = stepped(model)
    head = model.distiller.teacher.model.bbox_head
    _, boxes = by_hand(model, data, 2, None, head.retina_cls, head.retina_reg)
    classes, _ = by_hand(model, data, 2, None, head.retina_cls, head.retina_reg)
    s, t = rows(boxes, 4)
    score = rows(classes, 3)[1].sigmoid().amax(1)
    sizes = [tuple(p[0].shape[2:]) for p in boxes]
    priors = torch.cat(
        [p.repeat(2, 1) for p in head.prior_generator.grid_priors(sizes, device='cpu')]
    )
    ours, theirs = (head.bbox_coder.decode(priors, x) for x in (s, t))
    view = view_of(model, data)
    weight = score * (view.label_weights > 0)
    expected = GIoULoss(reduction='sum')(ours, theirs, weight) / view.avg_factor
    torch.testing.assert_close(losses['loss_cross'], expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_passes_the_teachers_head_and_stays_in_the_student():
    model = distilled(gfl, TERM)
    losses, _ = stepped(model)
    losses['loss_cross'].backward()
    moved = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    # Up to the third convolution; not what the student predicts itself.
    for name in ('backbone.conv1', 'neck.fpn_convs.0', 'bbox_head.cls_convs.2.conv'):
        assert any(n.startswith(name) for n in moved), name
    adapters = {n for n in moved if 'distiller' in n}  # from 16 to 24 channels
    assert len(adapters) == 2 * 5 * 2
    own = {n for n in moved - adapters if n.startswith('bbox_head')}
    assert not any('convs.3' in n or 'gfl_' in n for n in own)
    teacher = model.distiller.teacher.model
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    assert not any('forward' in vars(m) for m in teacher.modules())


def test_equal_networks_are_at_distance_zero():
    model = distilled(gfl, TERM, width=16, fold_norms=False)
    teacher = model.distiller.teacher.model
    model.load_state_dict(teacher.state_dict())
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    losses, _ = stepped(model)
    assert losses['loss_cross'].item() == pytest.approx(0, abs=1e-4)


def test_networks_that_agree_give_a_finite_gradient():
    s = torch.tensor([[40.0, 1.0]], requires_grad=True)
    for beta in (0.0, 1.0, 2.0):
        s.grad = None
        quality_focal_distillation_loss(
            s, s.detach() + 10 * s.detach(), beta
        ).backward()
        assert s.grad.isfinite().all()
        quality_focal_distillation_loss(s, s.detach().clone(), beta).backward()
        assert s.grad.isfinite().all()


@pytest.mark.parametrize('off', ['cls_weight', 'box_weight'])
def test_a_part_that_is_off_trains_nothing(off):
    """DDP waits for whatever is trained."""
    model = distilled(gfl, dict(TERM, **{off: 0.0}))
    losses, data = stepped(model)
    assert losses['loss_cross'] > 0
    losses['loss_cross'].backward()
    adapters = list(model.distiller.losses.named_parameters())
    assert len(adapters) == 5 * 2
    assert all(p.grad is not None and p.grad.any() for _, p in adapters)
    both = stepped(distilled(gfl, TERM))[0]['loss_cross']
    assert losses['loss_cross'] < both


def test_weight_0_is_the_stock_model():
    model = distilled(gfl, dict(TERM, loss_weight=0))
    losses, data = stepped(model)
    with DefaultScope.overwrite_default_scope('mmdet'):
        stock = ROOT.build(copy.deepcopy(gfl(16).model)).train()
    stock.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    for name, value in stock(**data, mode='loss').items():
        values = zip(value, losses[name]) if isinstance(value, list) else ()
        assert all(torch.equal(x, y) for x, y in values)


def test_a_teacher_in_half_precision():
    full, half = (distilled(gfl, TERM, dtype=dtype) for dtype in (None, 'bf16'))
    half.distiller.losses.load_state_dict(full.distiller.losses.state_dict())
    half.load_state_dict(full.state_dict())
    values = [stepped(model)[0]['loss_cross'].item() for model in (full, half)]
    assert values[1] == pytest.approx(values[0], rel=0.1)


def test_images_without_objects():
    raw = detection_batch()
    for sample in raw['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses, _ = stepped(distilled(gfl, TERM), raw)
    assert losses['loss_cross'] > 0


def softmax_retinanet(width: int):
    cfg = retinanet(width)
    cfg.model.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return cfg


def separate_towers(width: int):
    """RetinaNet with towers of each level's own."""
    cfg = retinanet(width)
    norm = dict(type='BN', requires_grad=True)
    cfg.model.bbox_head.update(type='RetinaSepBNHead', num_ins=5, norm_cfg=norm)
    return cfg


@pytest.mark.parametrize(
    ('student', 'teacher', 'term', 'message'),
    [
        (gfl, gfl, dict(TERM, index=5), r"'bbox_head\.cls_convs\.4' is not a sub-mod"),
        (gfl, retinanet, TERM, 'same priors per location but GFLHead'),
        (
            separate_towers,
            separate_towers,
            TERM,
            'needs towers of ConvModules',
        ),
        (
            softmax_retinanet,
            softmax_retinanet,
            TERM,
            'sigmoids but RetinaHead',
        ),
    ],
)
def test_heads_that_do_not_fit_are_errors_when_built(student, teacher, term, message):
    with pytest.raises(ValueError, match=message):
        distilled_detector(student(16), teacher(24), {'loss_cross': term})


def test_a_tap_that_another_term_needs_otherwise_is_an_error():
    hint = dict(type='mmkd.FeatureImitationLoss', at='bbox_head.cls_convs.2')
    with pytest.raises(ValueError, match=r"'bbox_head\.cls_convs\.2' is tapped in two"):
        distilled_detector(gfl(16), gfl(24), dict(loss_cross=TERM, loss_hint=hint))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(index=0), 'index must be an integer >= 1 but is 0'),
        (dict(beta=0.5), 'beta must be 0 or at least 1 but is 0.5'),
        (dict(box_weight=-1), 'box_weight must be finite and >= 0 but is -1'),
    ],
)
def test_numbers_out_of_range_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        CrossKDLoss(**wrong)
