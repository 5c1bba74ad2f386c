"""Classification distillation of dense heads: against loops and on a real head."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_localization_distillation import (
    UNEQUAL,
    head_step,
    priors_by_loops,
    raw_maps,
    retina,
    row_divergence,
)
from tiny_models import build, tiny_gfl

from mmkd.det import DistillDetector
from mmkd.losses import (
    ClassificationDistillationLoss,
    classification_distillation_loss,
)

FUNCTION = classification_distillation_loss
# Shape, temperature, form, whether rows are weighted, avg_factor.
CASES = [
    ((5, 4), 2.0, 'softmax', False, None),
    ((5, 4), 3.0, 'softmax', True, 7.0),
    ((3, 6), 0.5, 'sigmoid', False, None),
    ((1, 2), 4.0, 'sigmoid', True, 0.25),
    ((2, 1), 2.0, 'sigmoid', True, None),
    ((6, 80), 2.0, 'softmax', True, None),
]
MUTATIONS = {
    'sign of softmax': ('(log_t - log_s)', '(log_s - log_t)'),
    'direction of softmax': ('log_t.exp()', 'log_s.exp()'),
    'sign of sigmoid': ('F.logsigmoid(t) - F.logsigmoid(s)',
                        'F.logsigmoid(s) - F.logsigmoid(t)'),
    'direction of sigmoid': ('t.sigmoid()', 's.sigmoid()'),
    'no absent classes': ('yes + no', 'yes'),
    'no present classes': ('yes + no', 'no'),
    'no T squared': (' * temperature**2', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'teacher without temperature': ('teacher.detach() / temperature', 'teacher'),
    'student without temperature': ('student / temperature', 'student'),
    'softmax over the rows': ('log_softmax(1)', 'log_softmax(0)'),
    'sum over the classes': ('terms.mean(1)', 'terms.sum(1)'),
    'no weight': ('rows = rows * weight', 'pass'),
    'not divided': (' / avg_factor', ''),
    'avg_factor ignored': ('if avg_factor is None', 'if True'),
    'divided by the elements': ('max(len(rows), 1)', 'terms.numel()'),
    'forms exchanged': ("form == 'softmax'", "form == 'sigmoid'"),
}  # fmt: skip


def bernoulli_divergence(student: float, teacher: float) -> float:
    """KL of two coins with these logits in nats."""
    p, q = (1 / (1 + math.exp(-x)) for x in (teacher, student))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def row_value(student, teacher, temperature, form) -> float:
    """T^2 times the mean over the classes of a row's divergence."""
    if form == 'softmax':
        total = row_divergence(student, teacher, temperature)
    else:
        pairs = zip(student / temperature, teacher / temperature)
        total = sum(bernoulli_divergence(s, t) for s, t in pairs)
    return temperature**2 * total / len(student)


def reference(student, teacher, temperature, form, weight, avg_factor) -> float:
    total = 0.0
    for n in range(len(student)):
        value = row_value(student[n], teacher[n], temperature, form)
        total += value * (1.0 if weight is None else float(weight[n]))
    return total / (avg_factor or len(student))


def compare(function, shape, temperature, form, weighted, avg_factor) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2
    weight = torch.rand(shape[0], dtype=torch.float64) if weighted else None
    expected = reference(s.numpy(), t.numpy(), temperature, form, weight, avg_factor)
    actual = function(s, t, temperature, form, weight, avg_factor).item()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(classification_distillation_loss, *case)


def test_softmax_equals_the_loss_of_mmdetection():
    from mmdet.models.losses import KnowledgeDistillationKLDivLoss

    s, t = torch.randn(2, 12, 20) * 3
    stock = KnowledgeDistillationKLDivLoss(T=2)
    torch.testing.assert_close(classification_distillation_loss(s, t), stock(s, t))
    weight = torch.rand(12)
    torch.testing.assert_close(
        classification_distillation_loss(s, t, weight=weight, avg_factor=3.0),
        stock(s, t, weight=weight, avg_factor=3.0),
    )


def test_sigmoid_equals_the_cross_entropy_of_torch_without_the_entropy():
    s, t = torch.randn(2, 7, 5) * 2
    soft = (t / 2).sigmoid()
    cross = F.binary_cross_entropy_with_logits(s / 2, soft)
    entropy = F.binary_cross_entropy_with_logits(t / 2, soft)
    actual = classification_distillation_loss(s, t, form='sigmoid')
    torch.testing.assert_close(actual, 4 * (cross - entropy))


def test_two_classes_by_softmax_are_half_a_coin():
    """A softmax over (a, b) is the sigmoid of a - b."""
    s, t = torch.randn(2, 6, 2, dtype=torch.float64)
    softmax = classification_distillation_loss(s, t, 3.0)
    coins = ((x[:, :1] - x[:, 1:]) for x in (s, t))
    sigmoid = classification_distillation_loss(*coins, 3.0, form='sigmoid')
    torch.testing.assert_close(softmax, sigmoid / 2)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
def test_gradient_is_exact(form, weighted):
    s, t = torch.randn(2, 4, 5, dtype=torch.float64) * 2
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: classification_distillation_loss(x, t, 3.0, form, weight),
        s.requires_grad_(),
    )


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
def test_zero_at_equality_with_zero_gradient(form):
    t = torch.randn(6, 8) * 4
    s = t.clone().requires_grad_()
    loss = classification_distillation_loss(s, t, form=form)
    loss.backward()
    assert loss.item() == 0
    assert s.grad.abs().max() < 1e-6
    other = classification_distillation_loss(t + torch.randn_like(t), t, form=form)
    assert other > 1e-2


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
def test_falls_on_the_way_to_the_teacher(form):
    s, t = torch.randn(2, 6, 8) * 3
    values = [
        classification_distillation_loss(torch.lerp(s, t, w), t, form=form).item()
        for w in (0, 0.3, 0.6, 1)
    ]
    assert values[0] > values[1] > values[2] > values[3] == pytest.approx(0, abs=1e-6)


def test_a_constant_per_row_is_seen_by_the_sigmoid_alone():
    s, t = torch.randn(2, 6, 8, dtype=torch.float64)
    for form, moves in (('softmax', False), ('sigmoid', True)):
        base = classification_distillation_loss(s, t, form=form)
        moved = classification_distillation_loss(s + 3, t, form=form)
        assert ((moved - base).abs() > 1e-2) == moves


def test_the_teacher_is_detached():
    for form in ('softmax', 'sigmoid'):
        s, t = torch.randn(2, 4, 5)
        s.requires_grad_(), t.requires_grad_()
        classification_distillation_loss(s, t, form=form).backward()
        assert s.grad.abs().max() > 0
        assert t.grad is None


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('avg_factor', [None, torch.tensor(1e-6)])
def test_no_rows_give_a_differentiable_zero(avg_factor, form):
    s = torch.zeros(0, 3, requires_grad=True)
    loss = classification_distillation_loss(
        s, torch.zeros(0, 3), 2.0, form, torch.zeros(0), avg_factor
    )
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == (0, 3)


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype, form):
    s, t = (torch.randn(2, 8, 80) * 3000).to(dtype)
    s.requires_grad_()
    loss = classification_distillation_loss(s, t, form=form)
    loss.backward()
    exact = classification_distillation_loss(s.detach().float(), t.float(), form=form)
    assert loss.dtype == torch.float32
    assert loss > 100
    torch.testing.assert_close(loss.detach(), exact, rtol=0, atol=0)
    assert s.grad.dtype == dtype
    assert s.grad.isfinite().all()


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
def test_certain_networks_that_disagree_stay_finite(form):
    s, t = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True), torch.zeros(1, 3)
    t[0, 0], t[0, 1] = -1e4, 1e4
    loss = classification_distillation_loss(s, t, form=form)
    loss.backward()
    # T^2 times 2e4 / T, over three classes; twice for two coins of 1e4 each.
    assert loss.item() == pytest.approx(4 * 1e4 / 3, rel=1e-4)
    assert s.grad.isfinite().all()


def test_rejects_what_does_not_fit():
    s = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r'have \(3, 4\) and \(3, 5\)'):
        classification_distillation_loss(s, torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r'\(N, K\) but have \(3, 4, 2, 2\)'):
        classification_distillation_loss(*torch.zeros(2, 3, 4, 2, 2))
    with pytest.raises(ValueError, match=r'weight must have shape \(3,\) .*\(4,\)'):
        classification_distillation_loss(s, s, weight=torch.ones(4))
    with pytest.raises(ValueError, match=r"\('softmax', 'sigmoid'\) but is 'focal'"):
        classification_distillation_loss(s, s, form='focal')


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf')])
def test_rejects_temperatures_that_are_not_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        classification_distillation_loss(*torch.zeros(2, 1, 2), temperature)
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is'):
        ClassificationDistillationLoss(temperature=temperature)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(region='neg'), r"\('main', 'vlr', 'all'\) but is 'neg'"),
        (dict(normalize='sum'), r"\('avg_factor', 'paper'\) but is 'sum'"),
        (dict(form='focal'), r"form must be one of .* but is 'focal'"),
    ],
)
def test_the_class_rejects_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClassificationDistillationLoss(**wrong)


def test_the_defaults_are_the_published_ones():
    loss = ClassificationDistillationLoss()
    assert (loss.at, loss.region, loss.form) == ('bbox_head', 'main', 'softmax')
    assert (loss.temperature, loss.loss_weight) == (2.0, 10.0)
    assert loss.normalize == 'avg_factor'


@pytest.fixture(scope='module')
def step():
    # Wide enough that objects have positives on two levels.
    return head_step(((160, 160), (128, 160)))


def by_loops(step, region, form, temperature):
    """Level -> values of its rows, times their weights."""
    student, teacher, batch = step
    values = {}
    for place, prior in priors_by_loops(student, batch).items():
        positive = 0 <= prior['label'] < 3
        inside = dict(
            main=positive, vlr=prior['vlr'] and not positive, all=prior['label_weight']
        )[region]
        if inside:
            theirs = raw_maps(teacher, place)[0]
            value = row_value(prior['cls'], theirs, temperature, form)
            values.setdefault(place[0], []).append(value)
    return values


@pytest.mark.parametrize('form', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('region', ['main', 'vlr', 'all'])
def test_the_class_equals_loops_over_the_priors(step, region, form):
    temperature = 3.0
    values = by_loops(step, region, form, temperature)
    assert len(values) >= 2
    paper, ours = (
        ClassificationDistillationLoss(
            region=region,
            form=form,
            temperature=temperature,
            loss_weight=2.0,
            normalize=normalize,
        )
        for normalize in ('paper', 'avg_factor')
    )
    # The mean of every level, summed; or of all rows, whatever their level.
    expected = sum(np.mean(level) for level in values.values())
    assert expected > 0.05
    assert paper(*step).item() == pytest.approx(2 * expected, rel=1e-4)
    rows = [value for level in values.values() for value in level]
    assert ours(*step).item() == pytest.approx(2 * np.mean(rows), rel=1e-4)
    maps = step[0].calls['forward'][0].output[0]
    priors = sum(m[:, 0].numel() for m in maps)
    assert step[2].logs['share'].item() == pytest.approx(len(rows) / priors)


def test_the_log_is_the_mean_divergence_of_the_softened_scores(step):
    values = by_loops(step, 'main', 'softmax', 2.0)
    rows = [value for level in values.values() for value in level]
    ClassificationDistillationLoss()(*step)
    # Three classes, without T^2.
    expected = np.mean(rows) * 3 / 4
    assert step[2].logs['kl'].item() == pytest.approx(expected, rel=1e-4)


def test_rows_have_the_weights_of_the_heads_own_loss(step):
    student, _, batch = step
    output = student.calls['get_targets'][0].output
    weights = output[2]
    changed = [torch.full_like(w, 3.0) for w in weights]
    loss = ClassificationDistillationLoss()
    base = loss(*step)
    student.calls['get_targets'][0].output = (*output[:2], changed, *output[3:])
    try:
        # Divided by the number of rows, whatever they weigh.
        torch.testing.assert_close(loss(*step), 3 * base)
        vlr = ClassificationDistillationLoss(region='vlr')
        assert vlr.rows(student, batch).weight.unique().tolist() == [1.0]
    finally:
        student.calls['get_targets'][0].output = output


@pytest.mark.parametrize('kind', ['strides', 'levels', 'priors', 'classes', 'logits'])
def test_heads_that_differ_are_an_error_when_the_model_is_built(kind):
    student, teacher, message = UNEQUAL[kind]
    models = build(student().model, 'mmdet'), build(teacher().model, 'mmdet')
    losses = dict(loss_kd=dict(type='mmkd.ClassificationDistillationLoss'))
    with pytest.raises(ValueError, match=f'^loss_kd: .*{message}'):
        DistillDetector(*models, losses)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        (tiny_gfl, lambda: tiny_gfl(bbox_head=dict(reg_max=8))),
        (tiny_gfl, lambda: retina('RetinaHead')),
        (lambda: retina('RetinaHead'), lambda: retina(scale=4)),
    ],
)
def test_distributions_are_not_needed(student, teacher):
    models = build(student().model, 'mmdet'), build(teacher().model, 'mmdet')
    DistillDetector(*models, dict(loss_kd=ClassificationDistillationLoss()))
