"""Localization distillation: against loops, by hand, and on a real head."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_valuable_localization_region import reference as vlr_reference
from tiny_models import build, detection_batch, losses_of, tiny_gfl

from mmkd.batch import Batch
from mmkd.det import DistillDetector
from mmkd.det.views import DenseHeadView
from mmkd.losses import LocalizationDistillationLoss, localization_distillation_loss
from mmkd.taps import record

FUNCTION = localization_distillation_loss
# Shape, temperature, whether rows are weighted, avg_factor, reduction over the bins.
CASES = [
    ((5, 17), 10.0, False, None, 'mean'),
    ((5, 17), 1.0, True, None, 'mean'),
    ((3, 9), 0.5, True, 7.0, 'sum'),
    ((1, 2), 4.0, False, 0.25, 'sum'),
    ((6, 4), 2.0, False, None, 'sum'),
    ((4, 17), 10.0, True, 2.5, 'mean'),
]
MUTATIONS = {
    'sign': ('(log_t - log_s)', '(log_s - log_t)'),
    'direction': ('log_t.exp()', 'log_s.exp()'),
    'no T squared': (' * temperature**2', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'teacher without temperature': ('(teacher.detach() / temperature)', 'teacher'),
    'softmax over the rows': ('log_softmax(1)', 'log_softmax(0)'),
    'sum over bins for mean': ('terms.mean(1)', 'terms.sum(1)'),
    'mean over bins for sum': ('terms.sum(1)', 'terms.mean(1)'),
    'no weight': ('rows = rows * weight', 'pass'),
    'weight also a normaliser': ('rows * weight', 'rows * weight / weight.sum()'),
    'not divided': (' / avg_factor', ''),
    'avg_factor ignored': ('if avg_factor is None', 'if True'),
    'divided by the elements': ('max(len(rows), 1)', 'terms.numel()'),
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def row_divergence(student, teacher, temperature) -> float:
    """KL(teacher || student) of one row in nats."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return sum(p[i] * (math.log(p[i]) - math.log(q[i])) for i in range(len(p)))


def reference(student, teacher, temperature, weight, avg_factor, reduction) -> float:
    """T^2 / a * sum over the rows of weight * KL, KL / bins for 'mean'."""
    total, bins = 0.0, student.shape[1]
    for n in range(len(student)):
        divergence = row_divergence(student[n], teacher[n], temperature)
        share = divergence / bins if reduction == 'mean' else divergence
        total += share * (1.0 if weight is None else weight[n])
    return temperature**2 * total / (avg_factor or len(student))


def compare(function, shape, temperature, weighted, avg_factor, reduction) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 3
    weight = torch.rand(shape[0], dtype=torch.float64) if weighted else None
    expected = reference(
        s.numpy(), t.numpy(), temperature, weight, avg_factor, reduction
    )
    actual = function(s, t, temperature, weight, avg_factor, reduction)
    assert actual.item() == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(localization_distillation_loss, *case)


def test_equals_the_loss_of_mmdetection():
    from mmdet.models.losses import KnowledgeDistillationKLDivLoss

    s, t = torch.randn(2, 12, 17) * 3
    weight = torch.rand(12)
    stock = KnowledgeDistillationKLDivLoss(T=10)
    torch.testing.assert_close(
        localization_distillation_loss(s, t, weight=weight, avg_factor=4.0),
        stock(s, t, weight=weight, avg_factor=4.0),
    )
    torch.testing.assert_close(localization_distillation_loss(s, t), stock(s, t))


def test_equals_batchmean_of_torch():
    s, t = torch.randn(2, 6, 9)
    expected = 4 * F.kl_div(
        (s / 2).log_softmax(1), (t / 2).softmax(1), reduction='batchmean'
    )
    actual = localization_distillation_loss(s, t, 2.0, bin_reduction='sum')
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_gradient_is_exact(reduction, weighted):
    s, t = torch.randn(2, 4, 5, dtype=torch.float64) * 2
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: localization_distillation_loss(
            x, t, 3.0, weight, bin_reduction=reduction
        ),
        s.requires_grad_(),
    )


def test_the_gradient_is_the_difference_of_the_distributions():
    s, t = torch.randn(2, 4, 5, dtype=torch.float64)
    s.requires_grad_()
    localization_distillation_loss(s, t, 3.0, bin_reduction='sum').backward()
    # T^2 times 1 / T of the softmax's argument, over 4 rows.
    expected = 3 / 4 * ((s / 3).softmax(1) - (t / 3).softmax(1)).detach()
    torch.testing.assert_close(s.grad, expected)


def test_the_teacher_is_detached():
    s, t = torch.randn(2, 4, 5)
    s.requires_grad_(), t.requires_grad_()
    localization_distillation_loss(s, t).backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None


def test_zero_at_equality_with_zero_gradient():
    t = torch.randn(6, 17) * 4
    s = t.clone().requires_grad_()
    loss = localization_distillation_loss(s, t)
    loss.backward()
    assert loss.item() == 0
    assert s.grad.abs().max() < 1e-6
    assert localization_distillation_loss(t + torch.randn_like(t), t, 2.0) > 1e-3


def test_a_constant_per_row_changes_nothing_but_one_per_bin_does():
    s, t = torch.randn(2, 6, 9, dtype=torch.float64)
    base = localization_distillation_loss(s, t)
    moved = localization_distillation_loss(s + torch.arange(6.0)[:, None], t - 5)
    torch.testing.assert_close(moved, base)
    assert (localization_distillation_loss(s + torch.arange(9.0), t) - base).abs() > 0.1


def test_falls_on_the_way_to_the_teacher():
    s, t = torch.randn(2, 6, 17) * 4
    values = [
        localization_distillation_loss(torch.lerp(s, t, w), t).item()
        for w in (0, 0.3, 0.6, 1)
    ]
    assert values[0] > values[1] > values[2] > values[3] == pytest.approx(0, abs=1e-6)


def test_a_row_of_weight_0_is_no_row():
    s, t = torch.randn(2, 5, 9)
    weight = torch.tensor([1.0, 0, 2, 0, 1])
    kept = weight > 0
    torch.testing.assert_close(
        localization_distillation_loss(s, t, weight=weight, avg_factor=4.0),
        localization_distillation_loss(
            s[kept], t[kept], weight=weight[kept], avg_factor=4.0
        ),
    )


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize(
    ('weight', 'avg_factor'),
    [(None, None), (torch.zeros(0), None), (torch.zeros(0), torch.tensor(1e-6))],
)
def test_no_rows_give_a_differentiable_zero(weight, avg_factor, reduction):
    s = torch.zeros(0, 17, requires_grad=True)
    loss = localization_distillation_loss(
        s, torch.zeros(0, 17), 10.0, weight, avg_factor, reduction
    )
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == (0, 17)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype):
    s, t = (torch.randn(2, 8, 17) * 3000).to(dtype)
    weight = torch.rand(8).to(dtype)
    s.requires_grad_()
    loss = localization_distillation_loss(s, t, weight=weight)
    loss.backward()
    exact = localization_distillation_loss(
        s.detach().float(), t.float(), weight=weight.float()
    )
    assert loss.dtype == torch.float32
    # Beyond the largest number of float16.
    assert 1e5 > loss > 1e3 if dtype == torch.bfloat16 else loss > 1e3
    torch.testing.assert_close(loss.detach(), exact, rtol=0, atol=0)
    assert s.grad.dtype == dtype
    assert s.grad.isfinite().all()


def test_infinite_logits_of_a_certain_teacher_stay_finite():
    s, t = torch.zeros(1, 17, requires_grad=True), torch.full((1, 17), -1e4)
    t[0, 3] = 1e4
    loss = localization_distillation_loss(s, t, 1.0, bin_reduction='sum')
    loss.backward()
    assert loss.item() == pytest.approx(math.log(17))
    assert s.grad.isfinite().all()


def test_rejects_what_does_not_fit():
    s = torch.zeros(3, 17)
    with pytest.raises(ValueError, match=r'have \(3, 17\) and \(3, 9\)'):
        localization_distillation_loss(s, torch.zeros(3, 9))
    with pytest.raises(ValueError, match=r'\(N, K\) but have \(3, 4, 17\)'):
        localization_distillation_loss(*torch.zeros(2, 3, 4, 17))
    with pytest.raises(ValueError, match=r'weight must have shape \(3,\) .*\(3, 1\)'):
        localization_distillation_loss(s, s, weight=torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"\('mean', 'sum'\) but is 'none'"):
        localization_distillation_loss(s, s, bin_reduction='none')


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf')])
def test_rejects_temperatures_that_are_not_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        localization_distillation_loss(*torch.zeros(2, 1, 2), temperature)
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        LocalizationDistillationLoss(temperature=temperature)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(region='all'), r"region must be one of \('main', 'vlr'\) but is 'all'"),
        (dict(region=None), 'region must be one of .* but is None'),
        (dict(normalize='mean'), r"\('avg_factor', 'paper'\) but is 'mean'"),
        (dict(bin_reduction='max'), r"\('mean', 'sum'\) but is 'max'"),
    ],
)
def test_the_class_rejects_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        LocalizationDistillationLoss(**wrong)


def test_the_defaults_are_the_published_ones():
    loss = LocalizationDistillationLoss()
    assert (loss.at, loss.teacher_at, loss.region) == ('bbox_head', 'bbox_head', 'main')
    assert (loss.temperature, loss.loss_weight) == (10.0, 0.25)
    assert (loss.normalize, loss.bin_reduction) == ('avg_factor', 'mean')


def roughen(model, seed: int) -> None:
    """Random head weights: distributions and scores that are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.bbox_head.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * 0.2)


def head_step(shapes=((64, 96), (96, 64))):
    """Views of student and teacher in one step of a real GFL, and the batch."""
    student, teacher = (build(tiny_gfl(w).model, 'mmdet', w) for w in (16, 24))
    roughen(student, 1), roughen(teacher, 2)
    raw = detection_batch(shapes)
    data = student.data_preprocessor(copy.deepcopy(raw), True)
    batch = Batch(data['inputs'], data['data_samples'])
    with record(student, {'bbox_head': DenseHeadView}) as taps:
        losses_of(student, raw)
    teacher.eval()
    with torch.no_grad(), record(teacher, {'bbox_head': DenseHeadView}) as theirs:
        teacher(data['inputs'], mode='tensor')
    return taps['bbox_head'], theirs['bbox_head'], batch


@pytest.fixture(scope='module')
def step():
    return head_step()


def priors_by_loops(view, batch):
    """(level, image, y, x) -> label, VLR weight, class logits and edges' logits.

    From the head's own raw maps and targets; GFL's anchors are squares of 8 strides
    around multiples of the stride.
    """
    labels, label_weights = view.calls['get_targets'][0].output[1:3]
    cls, boxes = view.calls['forward'][0].output
    found = {}
    for image, sample in enumerate(batch.data_samples):
        places, anchors, sizes = [], [], []
        for level, stride in enumerate((8, 16, 32, 64, 128)):
            inside = 0
            for y in range(cls[level].shape[2]):
                for x in range(cls[level].shape[3]):
                    height, width = sample.pad_shape[:2]
                    if y * stride >= height or x * stride >= width:
                        continue
                    inside += 1
                    places.append((level, image, y, x))
                    centre = np.array([x, y, x, y]) * stride
                    anchors.append(centre + np.array([-4, -4, 4, 4]) * stride)
            sizes.append(inside)
        gt = sample.gt_instances.bboxes
        gt = (gt if isinstance(gt, torch.Tensor) else gt.tensor).tolist()
        _, weights = vlr_reference(np.array(anchors, float), sizes, gt)
        for place, weight in zip(places, weights):
            level, _, y, x = place
            row = y * cls[level].shape[3] + x
            found[place] = dict(
                label=int(labels[level][image, row]),
                label_weight=float(label_weights[level][image, row]),
                vlr=weight,
                cls=cls[level][image, :, y, x].detach().double().numpy(),
                box=boxes[level][image, :, y, x].detach().double().numpy(),
            )
    return found


def raw_maps(view, place):
    """Class logits and edges' logits of a prior."""
    level, image, y, x = place
    return [
        maps[level][image, :, y, x].detach().double().numpy()
        for maps in view.calls['forward'][0].output
    ]


def by_loops(step, region, temperature, reduction):
    """Sum of weighted rows, of the weights, and of KL; number of rows and priors."""
    student, teacher, batch = step
    priors = priors_by_loops(student, batch)
    total = weights = divergences = rows = 0.0
    for place, prior in priors.items():
        positive = 0 <= prior['label'] < 3
        if region == 'main':
            weight = positive / (1 + math.exp(-prior['cls'].max()))
        else:
            weight = 0.0 if positive else prior['vlr']
        if not weight:
            continue
        theirs = raw_maps(teacher, place)[1].reshape(4, 17)
        edges = [
            row_divergence(ours, goal, temperature)
            for ours, goal in zip(prior['box'].reshape(4, 17), theirs)
        ]
        share = 17 if reduction == 'mean' else 1
        total += temperature**2 * weight * sum(edges) / 4 / share
        weights += weight
        divergences += sum(edges) / 4
        rows += 1
    return total, weights, divergences, rows


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('temperature', [10.0, 3.0])
@pytest.mark.parametrize('region', ['main', 'vlr'])
def test_the_class_equals_loops_over_the_priors(step, region, temperature, reduction):
    total, weights, divergences, rows = by_loops(step, region, temperature, reduction)
    assert rows > 5
    assert total > 0.1
    paper, ours = (
        LocalizationDistillationLoss(
            region=region,
            temperature=temperature,
            loss_weight=2.0,
            normalize=normalize,
            bin_reduction=reduction,
        )
        for normalize in ('paper', 'avg_factor')
    )
    # The published VLR term is divided by 4 more.
    divisor = 1 if region == 'main' else 4
    value = paper(*step).item()
    assert value == pytest.approx(2 * total / divisor, rel=1e-4)
    value = ours(*step).item()
    assert value == pytest.approx(2 * total / (weights + 1e-6), rel=1e-4)
    logs = step[2].logs
    assert logs['kl'].item() == pytest.approx(divergences / rows, rel=1e-4)
    maps = step[0].calls['forward'][0].output[0]
    priors = sum(m[:, 0].numel() for m in maps)
    assert logs['share'].item() == pytest.approx(rows / priors)
    assert not logs['kl'].requires_grad


def test_the_region_is_without_the_positives(step):
    student, _, batch = step
    region = [p for p in priors_by_loops(student, batch).values() if p['vlr']]
    inside = [p['vlr'] for p in region if not 0 <= p['label'] < 3]
    # Some positives do lie in an object's region, or this would show nothing.
    assert 0 < len(inside) < len(region)
    rows = LocalizationDistillationLoss(region='vlr').rows(student, batch)
    assert len(rows.index) == len(inside)
    assert sorted(rows.weight.tolist()) == pytest.approx(sorted(inside), rel=1e-4)
    assert not student.positives[rows.index].any()


def test_the_region_needs_the_batch(step):
    with pytest.raises(ValueError, match='region needs the batch'):
        LocalizationDistillationLoss(region='vlr')(step[0], step[1])
    assert LocalizationDistillationLoss()(step[0], step[1]) > 0


def anchors(**changes):
    return dict(bbox_head=dict(anchor_generator=changes))


def retina(
    head_type='mmkd.DistributionalRetinaHead', scale=8, ratios=(1.0,), softmax=False
):
    """RetinaNet's head with a prior per ratio on the tiny GFL's trunk."""
    cfg = tiny_gfl()
    head = dict(
        type=head_type,
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=scale,
            scales_per_octave=1,
            ratios=list(ratios),
            strides=[8, 16, 32, 64, 128],
        ),
    )
    assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
    )
    cfg.model.train_cfg = dict(
        assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False
    )
    if softmax:
        head['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
    cfg.model.type = 'RetinaNet'
    cfg.model.bbox_head = head
    return cfg


def four_levels():
    cfg = tiny_gfl(
        neck=dict(num_outs=4),
        bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64])),
    )
    return cfg


GFL = r"GFLHead \('bbox_head'\)"
RETINA = r"DistributionalRetinaHead \('bbox_head'\)"
#: Student, teacher, what the message says.
UNEQUAL = {
    'teacher without distributions': (
        tiny_gfl,
        lambda: retina('RetinaHead'),
        r"the teacher's head must predict a distribution per edge but the student has "
        rf"{GFL}, the teacher RetinaHead \('bbox_head'\); use GFLHead, or .* mmkd\.Dis",
    ),
    'student without distributions': (
        lambda: retina('RetinaHead'),
        tiny_gfl,
        r"the student's head must predict a distribution per edge but the student has "
        rf"RetinaHead \('bbox_head'\), the teacher {GFL}; use GFLHead, or .* mmkd\.Dis",
    ),
    'reg_max': (
        tiny_gfl,
        lambda: tiny_gfl(bbox_head=dict(reg_max=8)),
        rf'{GFL} has 17 and {GFL} has 9; give both heads the same reg_max',
    ),
    'strides': (
        tiny_gfl,
        lambda: tiny_gfl(**anchors(strides=[8, 16, 32, 64, 100])),
        rf'same strides but {GFL} has .*\(128, 128\)\] and {GFL} has .*\(100, 100\)\]; '
        'give both heads the same levels',
    ),
    'levels': (
        tiny_gfl,
        four_levels,
        rf'same strides but {GFL} has .*\(128, 128\)\] and {GFL} has .*\(64, 64\)\]; '
        'give both heads the same levels',
    ),
    'priors': (
        tiny_gfl,
        lambda: retina(ratios=(1.0, 2.0)),
        rf'same priors per location but {GFL} has \[1, 1, 1, 1, 1\] and {RETINA} has '
        r'\[2, 2, 2, 2, 2\]; give both heads the same priors',
    ),
    'classes': (
        tiny_gfl,
        lambda: tiny_gfl(bbox_head=dict(num_classes=4)),
        rf'same classes but {GFL} has 3 and {GFL} has 4; use a teacher of the same',
    ),
    'logits': (
        retina,
        lambda: retina(softmax=True),
        rf'same class logits but {RETINA} has 3 and {RETINA} has 4; use sigmoids',
    ),
    'bin sizes': (
        tiny_gfl,
        lambda: retina(scale=4),
        rf'same pixels per bin but {GFL} has \[\[8.0\], .* and {RETINA} has \[\[4.0\],'
        '.*; give both heads the same priors',
    ),
}


@pytest.mark.parametrize('region', ['main', 'vlr'])
@pytest.mark.parametrize('kind', UNEQUAL)
def test_heads_that_differ_are_an_error_when_the_model_is_built(kind, region):
    student, teacher, message = UNEQUAL[kind]
    loss = dict(type='mmkd.LocalizationDistillationLoss', region=region)
    models = build(student().model, 'mmdet'), build(teacher().model, 'mmdet')
    with pytest.raises(ValueError, match=f'^loss_ld: .*{message}'):
        DistillDetector(*models, dict(loss_ld=loss))


def test_equal_bins_of_other_heads_are_accepted():
    """A bin of an anchor of 8 strides is GFL's stride."""
    models = [build(cfg.model, 'mmdet') for cfg in (tiny_gfl(), retina())]
    DistillDetector(*models, dict(loss_ld=LocalizationDistillationLoss()))


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_tap_that_is_no_dense_head_is_an_error_when_the_model_is_built(side):
    paths = dict(at='bbox_head', teacher_at='bbox_head')
    paths['at' if side == 'student' else 'teacher_at'] = 'neck'
    models = [build(tiny_gfl().model, 'mmdet') for _ in range(2)]
    message = f"loss_ld: the {side} must be tapped at a dense head, such as at='bbox_he"
    with pytest.raises(ValueError, match=message):
        DistillDetector(*models, dict(loss_ld=LocalizationDistillationLoss(**paths)))


def test_a_head_that_did_not_run_dry_is_an_error():
    loss = LocalizationDistillationLoss(teacher_at='rpn_head')
    with pytest.raises(ValueError, match="'bbox_head' of the student or 'rpn_head' of"):
        loss.prepare(None, None)


def test_weight_0_asks_nothing_of_the_heads():
    models = [build(cfg.model, 'mmdet') for cfg in (tiny_gfl(), retina('RetinaHead'))]
    loss = LocalizationDistillationLoss(loss_weight=0)
    model = DistillDetector(*models, dict(loss_ld=loss))
    assert losses_of(model, detection_batch())['loss_ld'] == 0
