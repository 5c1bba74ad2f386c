"""What holds for every registered loss, whatever it computes.

A loss whose taps yield feature maps is covered by itself. One that needs more
(a head view, other arguments) gets a line in ``CASES``.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

import mmkd.losses
from mmkd.batch import Batch
from mmkd.losses import DistillLoss
from mmkd.registry import MODELS
from mmkd.taps import HeadView

Levels = tuple[Tensor, ...]
SHAPES = ((4, 3, 6, 5), (4, 3, 3, 2))
TEMPERATURES = dict(temperature=2.0)


def random_levels(shapes=SHAPES, dtype=torch.float32, device='cpu') -> Levels:
    # On the CPU first: the same numbers on every device.
    values = [torch.randn(shape, dtype=torch.float64) * 2 for shape in shapes]
    return tuple(value.to(device, dtype) for value in values)


@dataclass
class Case:
    """How to build a loss and what its taps yield.

    Args:
        arguments: Of the class, besides ``at`` and ``loss_weight``.
        sample: Function of shapes, dtype and device that makes one side.
    """

    arguments: dict = field(default_factory=dict)
    sample: Callable[..., Levels] = random_levels


CASES = {
    'ChannelWiseDivergenceLoss': Case(TEMPERATURES),
    'SoftTargetLoss': Case(TEMPERATURES),
}


def registered() -> dict[str, type[DistillLoss]]:
    MODELS.import_from_location()
    found = {
        name: value
        for name, value in MODELS.module_dict.items()
        if isinstance(value, type) and issubclass(value, DistillLoss)
    }
    return {name: found[name] for name in sorted(found)}


LOSSES = registered()


def build(name: str, loss_weight: float = 1.0, prepared: bool = True) -> DistillLoss:
    """A loss as the distiller builds it, with random but equal adapters."""
    case = CASES.get(name, Case())
    torch.manual_seed(5)
    try:
        loss = LOSSES[name](at='neck', loss_weight=loss_weight, **case.arguments)
        if prepared:
            loss.prepare(sample(name), sample(name))
    except Exception as error:
        pytest.fail(f'{name} needs a case of its own in {__file__}: {error!r}')
    return loss


def sample(name: str, shapes=SHAPES, dtype=torch.float32, device='cpu') -> Levels:
    return CASES.get(name, Case()).sample(shapes, dtype, device)


def leaves(levels: Levels) -> Levels:
    return tuple(x.clone().requires_grad_() for x in levels)


@pytest.fixture(params=list(LOSSES))
def name(request) -> str:
    return request.param


def test_every_loss_is_registered_and_public():
    def subclasses(cls):
        return {cls}.union(*map(subclasses, cls.__subclasses__()))

    ours = {c for c in subclasses(DistillLoss) if c.__module__.startswith('mmkd.')}
    assert ours - {DistillLoss} == set(LOSSES.values())
    for name, cls in LOSSES.items():
        if cls.__module__.startswith('mmkd.losses.'):
            assert name in mmkd.losses.__all__


def test_gradient_reaches_the_student_and_none_the_teacher(name, device):
    loss = build(name).to(device)
    student = leaves(sample(name, device=device))
    teacher = leaves(sample(name, device=device))
    value = loss(student, teacher)
    assert value.shape == ()
    assert value.device.type == device.type
    assert value > 0
    value.backward()
    for x in (*student, *loss.parameters()):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0
    assert all(x.grad is None for x in teacher)


def test_gradient_is_exact(name):
    loss = build(name).double()
    student = leaves(sample(name, ((2, 3, 3, 2), (2, 3, 1, 2)), torch.float64))
    teacher = sample(name, ((2, 3, 3, 2), (2, 3, 1, 2)), torch.float64)
    weights = tuple(loss.parameters())
    assert torch.autograd.gradcheck(
        lambda *x: loss(x[: len(student)], teacher), (*student, *weights)
    )


@pytest.mark.parametrize('factor', [0.0, 0.25, 40.0])
def test_scales_with_the_weight(name, factor):
    student, teacher = sample(name), sample(name)
    base = build(name, 1.0)(student, teacher)
    torch.testing.assert_close(build(name, factor)(student, teacher), factor * base)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(name, dtype, device):
    # Not prepared: adapters are the model's business, as any convolution is.
    loss = build(name, prepared=False)
    student, teacher = (
        tuple(x * 100 for x in sample(name, dtype=dtype, device=device))
        for _ in range(2)
    )
    student = leaves(student)
    value = loss(student, teacher)
    value.backward()
    # Squares and sums of such values overflow in float16.
    exact = loss(tuple(x.float() for x in student), tuple(x.float() for x in teacher))
    assert value.dtype == torch.float32
    assert value.isfinite()
    torch.testing.assert_close(value, exact, rtol=0, atol=0)
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in student)


def test_autocast_changes_no_more_than_the_adapters_rounding(name, device):
    loss = build(name).to(device)
    student, teacher = sample(name, device=device), sample(name, device=device)
    exact = loss(student, teacher)
    with torch.autocast(device.type, torch.bfloat16):
        value = loss(student, teacher)
        half = loss(tuple(x.bfloat16() for x in student), teacher)
    assert value.dtype == half.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=2e-2, atol=0)
    torch.testing.assert_close(half, exact, rtol=2e-2, atol=0)


def test_double_stays_double(name):
    loss = build(name).double()
    student, teacher = (sample(name, dtype=torch.float64) for _ in range(2))
    assert loss(student, teacher).dtype == torch.float64


def test_an_empty_batch_gives_a_differentiable_zero(name):
    loss = build(name)
    shapes = tuple((0, *shape[1:]) for shape in SHAPES)
    student = leaves(sample(name, shapes))
    value = loss(student, sample(name, shapes))
    value.backward()
    assert value.item() == 0
    # DDP waits for every weight, also on a rank that had nothing to learn from.
    assert all(x.grad is not None for x in (*student, *loss.parameters()))
    assert all(x.grad.abs().sum() == 0 for x in loss.parameters())


def test_a_batch_of_nothing_but_padding_stays_finite(name):
    loss = build(name)
    outside = [BaseDataElement(metainfo=dict(img_shape=(0, 0))) for _ in range(4)]
    student = leaves(sample(name))
    batch = Batch(torch.zeros(4, 3, 24, 20), outside)
    value = loss(student, sample(name), batch)
    value.backward()
    assert value.isfinite()
    for x in (*student, *loss.parameters()):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_the_order_of_the_batch_does_not_matter(name):
    loss = build(name)
    student, teacher = sample(name), sample(name)
    samples = [
        BaseDataElement(metainfo=dict(img_shape=hw))
        for hw in [(24, 20), (9, 20), (24, 5), (13, 12)]
    ]
    inputs = torch.zeros(4, 3, 24, 20)
    order = [2, 0, 3, 1]
    value = loss(student, teacher, Batch(inputs, samples))
    shuffled = loss(
        tuple(x[order] for x in student),
        tuple(x[order] for x in teacher),
        Batch(inputs, [samples[i] for i in order]),
    )
    torch.testing.assert_close(shuffled, value)


def test_levels_are_averaged_and_may_come_in_any_container(name):
    loss = build(name, prepared=False)
    student, teacher = sample(name), sample(name)
    apart = [loss(s, t) for s, t in zip(student, teacher)]
    together = loss(student, teacher)
    torch.testing.assert_close(together, sum(apart) / len(apart))
    nested = loss([student[0], [student[1]]], dict(a=teacher[0], b=teacher[1]))
    torch.testing.assert_close(nested, together)


class LogitsView(HeadView):
    def __init__(self, levels: Levels) -> None:
        self.levels = levels

    @property
    def logits(self) -> list[Tensor]:
        return list(self.levels)


def test_a_head_view_stands_for_its_logits(name):
    loss = build(name)
    student, teacher = sample(name), sample(name)
    views = LogitsView(student), LogitsView(teacher)
    torch.testing.assert_close(loss(*views), loss(student, teacher))


def test_what_does_not_fit_is_an_error(name):
    loss = build(name, prepared=False)
    student, teacher = sample(name), sample(name)
    with pytest.raises(ValueError, match='same shape but have'):
        loss(student[0], teacher[0][:, :, :-1])
    with pytest.raises(ValueError, match='same number of levels but yield 2 .* and 1'):
        loss(student, teacher[:1])
    with pytest.raises(ValueError, match='same number of levels but yield 2 .* and 1'):
        loss.prepare(student, teacher[:1])
    with pytest.raises(TypeError, match='must yield a floating point tensor'):
        loss(student, None)


def test_sizes_that_differ_are_an_error_when_built(name):
    student, teacher = sample(name), sample(name)
    with pytest.raises(ValueError, match=r'\(4, 3, 6, 5\) and \(4, 3, 6, 4\)'):
        build(name, prepared=False).prepare(student[0], teacher[0][..., :-1])


@pytest.mark.parametrize(
    ('wrong', 'error', 'message'),
    [
        (dict(at=''), ValueError, 'at must name a sub-module but is empty'),
        (dict(at=3), TypeError, 'at must be a dotted path .* but is 3'),
        (dict(teacher_at=['neck']), TypeError, 'teacher_at must be a dotted path'),
        (dict(loss_weight=-1), ValueError, 'loss_weight must be .* but is -1'),
        (dict(loss_weight=float('nan')), ValueError, 'loss_weight must be .* nan'),
        (dict(loss_weight=float('inf')), ValueError, 'loss_weight must be .* inf'),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(name, wrong, error, message):
    arguments = dict(at='neck', **CASES.get(name, Case()).arguments)
    with pytest.raises(error, match=message):
        LOSSES[name](**{**arguments, **wrong})


@pytest.mark.parametrize(
    'copied',
    [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))],
    ids=['deepcopy', 'pickle'],
)
def test_copies_compute_the_same(name, copied):
    loss = build(name, 0.7)
    student, teacher = sample(name), sample(name)
    twin = copied(loss)
    assert torch.equal(twin(student, teacher), loss(student, teacher))
    assert {id(p) for p in twin.parameters()}.isdisjoint(map(id, loss.parameters()))


def test_state_loads_into_another_instance(name):
    loss, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(loss.state_dict())
    student, teacher = sample(name), sample(name)
    assert torch.equal(other(student, teacher), loss(student, teacher))


def test_repr_shows_tap_and_weight(name):
    arguments = CASES.get(name, Case()).arguments
    loss = LOSSES[name](
        at='backbone.layer4', loss_weight=0.3, teacher_at='neck', **arguments
    )
    assert "at='backbone.layer4', loss_weight=0.3" in repr(loss)
    assert loss.teacher_at == 'neck'
    assert LOSSES[name](at='neck', **arguments).teacher_at == 'neck'


def test_builds_from_a_config(name):
    cfg = dict(type=f'mmkd.{name}', at='neck', **CASES.get(name, Case()).arguments)
    assert type(MODELS.build(cfg)) is LOSSES[name]
