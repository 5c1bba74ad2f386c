"""What the check measures, against independent computations."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.optim import OptimWrapper
from rich.console import Console
from toy_model import ToyModel

from mmkd.distill import Distill
from mmkd.preflight.cost import measure_cost
from mmkd.preflight.findings import Findings
from mmkd.preflight.fit_report import check_fit, fit_table
from mmkd.preflight.networks import count_flops
from mmkd.preflight.tensor_bytes import bytes_of, held_by, peak_bytes
from mmkd.preflight.terms import Term, check_terms, measure_terms

HINT = dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.3)
TRUNK = dict(type='mmkd.FeatureImitationLoss', at='backbone')
NAMES = ('cat', 'dog', 'cow')


def distilled(student=None, teacher=None) -> Distill:
    return Distill(
        student or ToyModel(4),
        teacher=teacher or ToyModel(8),
        losses=dict(loss_hint=dict(HINT), loss_trunk=dict(TRUNK)),
    )


def batch() -> dict:
    return dict(inputs=torch.randn(2, 3, 32, 32), data_samples=None)


def optim_wrapper(model) -> OptimWrapper:
    return OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))


def gradient_of(model, data, name) -> dict[str, torch.Tensor]:
    """By ``backward`` of one loss alone, weights of the student only."""
    model = copy.deepcopy(model).train()
    model(**data, mode='loss')[name].backward()
    return {
        name: p.grad
        for name, p in model.named_parameters()
        if p.grad is not None and not name.startswith('distiller')
    }


def norm(gradients, names) -> float:
    return math.sqrt(sum(float(gradients[n].double().pow(2).sum()) for n in names))


def test_terms_and_gradients():
    model, data = distilled(), batch()
    losses = copy.deepcopy(model).train()(**data, mode='loss')
    task, *terms = measure_terms(copy.deepcopy(model), data, optim_wrapper(model))
    whole = gradient_of(model, data, 'loss_cls')
    assert (task.name, task.weight) == ('task', None)
    assert task.value == pytest.approx(losses['loss_cls'].item())
    assert task.gradient == pytest.approx(norm(whole, whole), rel=1e-4)
    assert [(term.name, term.weight) for term in terms] == [
        ('loss_hint', 0.3),
        ('loss_trunk', 1.0),
    ]
    for term in terms:
        pull = gradient_of(model, data, term.name)
        assert 0 < len(pull) < len(whole)  # the head is out of its reach
        assert term.value == pytest.approx(losses[term.name].item())
        expected = norm(pull, pull) / norm(whole, pull)
        assert term.ratio == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_a_term_without_effect_on_the_student():
    model = distilled()
    model.backbone.requires_grad_(False)
    findings = Findings()
    terms = measure_terms(model, batch(), optim_wrapper(model))
    check_terms(terms, findings)
    assert 'loss_trunk: no gradient reaches' in findings.warnings[-1]


def test_values_that_are_not_finite():
    model, findings = distilled(), Findings()
    model.distiller.teacher.model.neck.lateral.weight.fill_(math.inf)
    check_terms(measure_terms(model, batch(), optim_wrapper(model)), findings)
    (error,) = findings.errors
    assert error.startswith('loss_hint: value ')


def told(**changes) -> Findings:
    numbers = dict(value=1.0, gradient=1.0, task=1.0, is_finite=True)
    findings = Findings()
    check_terms([Term('loss_x', 2.0, **{**numbers, **changes})], findings)
    return findings


def test_what_is_said_of_a_term():
    for unremarkable in (1.0, 9.9, 0.002):
        findings = told(gradient=unremarkable)
        assert (findings.errors, findings.warnings) == ([], [])
    assert 'loss_weight 0.1 would make the two equal' in told(gradient=20.0).warnings[0]
    assert 'loss_weight 4e+02 would make it a' in told(gradient=5e-4).warnings[0]


def test_a_step_costs_more_with_a_teacher_and_changes_no_weight():
    model = distilled()
    before = copy.deepcopy(dict(model.named_parameters()))
    wrapper, runs, ticks = optim_wrapper(model), [], []
    teacher = model.distiller.teacher.model
    teacher.register_forward_pre_hook(lambda *_: runs.append(1))
    cost = measure_cost(model, batch(), wrapper, 2, lambda: ticks.append(len(runs)))
    assert ticks == [0, 2, 2, 3, 3, 4]  # in turn, and stock steps run no teacher
    assert [len(cost.seconds[kind]) for kind in ('stock', 'distilled')] == [2, 2]
    assert cost.peak['distilled'] > cost.peak['stock'] + bytes_of(teacher.parameters())
    student = sum(p.numel() for n, p in before.items() if 'distiller' not in n) * 4
    assert cost.peak['stock'] > 3 * student  # Adam's moments
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert wrapper.optimizer.param_groups[0]['lr'] == 0.1
    assert model.distiller.factors == dict(loss_hint=1.0, loss_trunk=1.0)


def test_peak_memory_of_a_chain():
    layers = [torch.nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(6)]
    net, inputs = torch.nn.Sequential(*layers), torch.zeros(1, 8, 32, 32)
    weights, map_ = 6 * 8 * 8 * 9 * 4, 8 * 32 * 32 * 4
    with torch.no_grad():
        peak, _ = peak_bytes(lambda: net(inputs), held_by(net))
    assert peak == weights + 2 * map_  # nothing is kept but input and output
    peak, measure = peak_bytes(lambda: net(inputs).sum().backward(), held_by(net))
    # Outputs are kept; gradients of weights and of one map come as they are freed.
    assert weights + 6 * map_ < peak < 2 * weights + 8 * map_
    assert 'live tensors' in measure


def test_flops_of_a_convolution():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)

        def forward(self, inputs, samples, mode):
            return [self.conv(inputs)]

    assert count_flops(Model(), (32, 64)) == (16 * 32 * 8 * 3 * 9, [])


def test_the_fit_is_what_the_networks_are():
    model = distilled()
    ours, theirs = model.distiller.fit['loss_hint']
    assert (ours.kind, ours.path) == ('ToyNeck', 'neck')
    assert (ours.channels, theirs.channels) == ([4, 4], [8, 8])
    assert ours.strides == theirs.strides == [2, 4]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(fit_table(model.distiller))
    assert '1x1 4 to 8' in capture.get()
    assert '2x4 channels, stride 2/4' in capture.get()


def fitted(model, classes=None, steps=()) -> Findings:
    findings, state = Findings(), torch.get_rng_state()
    dataset = dict(pipeline=[dict(type=step) for step in steps])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    check_fit(model.distiller, cfg, classes, findings)
    assert torch.equal(state, torch.get_rng_state())
    return findings


def test_terms_and_weights_that_teach_nothing():
    model = distilled()
    assert not fitted(model).warnings
    model.distiller.teacher.is_random = True
    for loss in model.distiller.losses.values():
        loss.loss_weight = 0.0
    no_term, random = fitted(model).warnings
    assert 'no term is on' in no_term
    assert 'random weights' in random


RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0] * 3)


def normalising(width, bgr_to_rgb, **numbers) -> ToyModel:
    preprocessor = ImgDataPreprocessor(bgr_to_rgb=bgr_to_rgb, **numbers)
    return ToyModel(width, data_preprocessor=preprocessor)


def test_channel_order():
    caffe = normalising(8, False, **CAFFE)
    assert not fitted(distilled(normalising(4, True, **RGB), caffe)).warnings
    model = distilled(normalising(4, True, **RGB), normalising(8, True, **CAFFE))
    (warning,) = fitted(model).warnings
    assert "the teacher's mean" in warning
    assert 'in the order BGR but its inputs are RGB' in warning
    (warning,) = fitted(distilled(normalising(4, False, **RGB))).warnings
    assert "the student's mean" in warning


def test_a_pipeline_that_normalises():
    model = distilled(None, normalising(8, True, **RGB))
    assert not fitted(model).warnings
    (warning,) = fitted(model, steps=['Resize', 'Normalize']).warnings
    assert 'normalises the pictures itself' in warning


def test_classes_in_another_order():
    model = distilled()
    teacher = model.distiller.teacher.model
    teacher.dataset_meta = dict(classes=NAMES[::-1])
    assert 'the same in another order' in fitted(model, NAMES).warnings[0]
    teacher.dataset_meta = dict(classes=('a', 'b'))
    assert 'trained on 2 classes' in fitted(model, NAMES).notes[0]
    for loss in model.distiller.losses.values():
        loss.class_names = NAMES[::-1]
    (error,) = fitted(model, NAMES).errors
    assert error.startswith('loss_hint, loss_trunk: student and teacher must have')
