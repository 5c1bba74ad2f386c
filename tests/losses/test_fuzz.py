"""Every loss on random shapes, dtypes, memory layouts, magnitudes and masks.

Functions first, then the registered classes by the table of ``test_contract.py``.
Examples are the same in every run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_contract import (
    CASES,
    NAMES,
    ON_HEADS,
    ON_MAPS,
    SHAPES,
    Case,
    batch_of,
    build,
    call,
    leaves,
    sample,
)
from torch import Tensor, nn

from mmkd.batch import Batch
from mmkd.losses.bounded_regression import bounded_regression_loss
from mmkd.losses.channel_wise_divergence import channel_wise_divergence
from mmkd.losses.classification_distillation import classification_distillation_loss
from mmkd.losses.dist import dist_loss
from mmkd.losses.dkd import dkd_loss
from mmkd.losses.feature_imitation import feature_imitation_loss
from mmkd.losses.fgd import fgd_loss
from mmkd.losses.holistic import gradient_penalty
from mmkd.losses.localization_distillation import localization_distillation_loss
from mmkd.losses.mgd import mgd_loss
from mmkd.losses.pair_wise import pair_wise_loss
from mmkd.losses.pixel_wise import pixel_wise_loss
from mmkd.losses.pkd import pkd_loss
from mmkd.losses.soft_target import soft_target_loss
from mmkd.losses.weighted_soft_cross_entropy import (
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAGNITUDES = (1e-4, 1.0, 30.0, 1e4)
TEMPERATURE = st.sampled_from([0.5, 1.0, 10.0])


def fuzz(examples: int):
    """The same examples every time, as many, and no clock."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass
class Fuzzed:
    """A loss function, and what it takes.

    Args:
        function: The function.
        dims: Dimensions of its maps or rows.
        mask: Name of its mask or of the weights of its rows.
        options: Name -> strategy for its further arguments.
        is_distance: Whether it is 0 for equal inputs and nowhere negative.
        target: Whether it takes a third tensor.
        columns: Width of its rows, where it has one width alone.
    """

    function: Callable[..., Tensor]
    dims: int = 4
    mask: str = 'mask'
    options: dict = field(default_factory=dict)
    is_distance: bool = True
    target: bool = False
    columns: int | None = None


def labelled_dkd_loss(student: Tensor, teacher: Tensor, **options) -> Tensor:
    """With labels that move with the rows."""
    labels = teacher.detach().nan_to_num().argmax(1)
    return dkd_loss(student, teacher, labels, **options)


def weighted_dist_loss(student: Tensor, teacher: Tensor, weight=None, **options):
    """Rows that do not count are left out, as the loss does it."""
    if weight is not None:
        kept = weight.nonzero().squeeze(1)
        student, teacher = student[kept], teacher[kept]
    return dist_loss(student, teacher, **options)


def striped_fgd_loss(student: Tensor, teacher: Tensor, **options) -> Tensor:
    """With an object in every other column."""
    width = student.shape[3]
    foreground = (torch.arange(width) % 2 / width).expand(len(student), 1, 1, -1)
    foreground = foreground.expand(-1, -1, student.shape[2], -1)
    return fgd_loss(student, teacher, foreground, **options)


WARM = dict(temperature=TEMPERATURE)
ROWS = dict(dims=2, mask='weight')
FUNCTIONS = dict(
    feature_imitation=Fuzzed(
        feature_imitation_loss, options=dict(norm=st.sampled_from(['l2', 'l1']))
    ),
    channel_wise=Fuzzed(channel_wise_divergence, options=WARM),
    soft_target=Fuzzed(soft_target_loss, options=WARM),
    pkd=Fuzzed(pkd_loss),
    mgd=Fuzzed(mgd_loss),
    fgd=Fuzzed(striped_fgd_loss, options=WARM),
    dkd=Fuzzed(labelled_dkd_loss, dims=2, mask='weight', options=WARM, columns=5),
    dist=Fuzzed(
        weighted_dist_loss, dims=2, mask='weight', options=WARM, is_distance=False
    ),
    pixel_wise=Fuzzed(pixel_wise_loss, mask='valid_mask', options=WARM),
    pair_wise=Fuzzed(
        pair_wise_loss,
        options=dict(
            pool=st.sampled_from(['avg', 'max']),
            kernel=st.sampled_from([1, 2, 3, 0.5]),
            detach_norms=st.booleans(),
        ),
    ),
    localization=Fuzzed(
        localization_distillation_loss,
        options=dict(WARM, bin_reduction=st.sampled_from(['mean', 'sum'])),
        **ROWS,
    ),
    classification=Fuzzed(
        classification_distillation_loss,
        options=dict(WARM, form=st.sampled_from(['softmax', 'sigmoid'])),
        **ROWS,
    ),
    cross_entropy=Fuzzed(
        weighted_soft_cross_entropy, options=WARM, is_distance=False, **ROWS
    ),
    binary_cross_entropy=Fuzzed(
        weighted_soft_binary_cross_entropy,
        dims=1,
        mask='weight',
        options=WARM,
        is_distance=False,
    ),
    bounded_regression=Fuzzed(bounded_regression_loss, target=True, columns=4, **ROWS),
)


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values in another place of the memory."""
    if layout == 'strided':
        wide = torch.stack([x, torch.full_like(x, float('nan'))], -1)
        return wide.flatten(-2)[..., ::2] if x.dim() else x
    if layout == 'transposed':
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == 'channels_last' and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 'expanded' and len(x):
        return x[:1].expand_as(x)
    return x


LAYOUTS = ('contiguous', 'strided', 'transposed', 'channels_last', 'expanded')


@st.composite
def inputs(draw, case: Fuzzed, masked: bool = False):
    """Student, teacher and keyword arguments of a function."""
    count = draw(st.integers(0 if case.dims < 4 else 1, 7 if case.dims < 4 else 4))
    width = case.columns or draw(st.integers(1, 20))
    sides = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    shape = (count, width, *sides)[: case.dims]
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    scale = draw(st.sampled_from(MAGNITUDES))
    tensors = []
    for _ in range(3 if case.target else 2):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        # Values that the dtype can hold.
        x = x.clamp(-6e4, 6e4).to(dtype)
        tensors.append(arranged(x, draw(st.sampled_from(LAYOUTS))))
    options = {name: draw(values) for name, values in case.options.items()}
    if masked:
        kind = draw(st.sampled_from(['none', 'all', 'random', 'padding']))
        mask = mask_of(kind, shape, case, generator)
        options[case.mask] = mask.to(dtype) if case.dims < 4 else mask
    return tensors, options


def mask_of(kind: str, shape: tuple, case: Fuzzed, generator) -> Tensor:
    """Which positions or rows count."""
    size = (shape[0], 1, *shape[2:]) if case.dims == 4 else shape[:1]
    if kind in ('none', 'all'):
        return torch.full(size, kind == 'all')
    mask = torch.rand(size, generator=generator) < 0.5
    if kind == 'padding' and case.dims == 4:
        mask[:] = True
        mask[0, :, :, shape[3] // 2 :] = False
    return mask


def value_of(case: Fuzzed, tensors: list[Tensor], options: dict) -> Tensor:
    return case.function(*tensors, **options)


@pytest.fixture(params=FUNCTIONS)
def case(request) -> Fuzzed:
    return FUNCTIONS[request.param]


def largest(*tensors: Tensor) -> float:
    return max([x.abs().max().item() for x in tensors if x.numel()], default=0.0)


@fuzz(40)
@given(data=st.data())
def test_a_function_gives_a_finite_number_and_gradient(case, data):
    tensors, options = data.draw(inputs(case, masked=data.draw(st.booleans())))
    student, *others = tensors
    # A leaf: one that is expanded or strided gets a gradient of its shape all the same.
    student = student.detach().requires_grad_()
    others = [x.detach().requires_grad_() for x in others]
    value = value_of(case, [student, *others], options)
    assert value.shape == ()
    assert value.dtype == max(student.dtype, torch.float32, key=lambda d: d.itemsize)
    assert value.isfinite()
    value.backward()
    assert student.grad is not None
    assert student.grad.shape == student.shape
    assert student.grad.dtype == student.dtype
    if student.dtype != torch.float16:  # a gradient of 1e5 has no place in it
        assert student.grad.isfinite().all()
    assert others[0].grad is None  # the teacher's
    # Rounding alone may take a divergence below 0.
    slack = 1e-6 * (1 + largest(*tensors)) * 400
    assert value >= -slack
    assert torch.equal(value_of(case, [student, *others], options), value)


@fuzz(40)
@given(data=st.data())
def test_memory_and_half_precision_change_nothing(case, data):
    """Half inputs are computed exactly as their float32 copies are."""
    tensors, options = data.draw(inputs(case, masked=data.draw(st.booleans())))
    value = value_of(case, tensors, options)
    copies = [x.clone(memory_format=torch.contiguous_format) for x in tensors]
    wide = [x if x.dtype == torch.float64 else x.float() for x in copies]
    if case.dims < 4 and case.mask in options:
        options[case.mask] = options[case.mask].to(wide[0].dtype)
    torch.testing.assert_close(
        value_of(case, wide, options), value, rtol=1e-4, atol=slack_of(tensors)
    )


def slack_of(tensors: list[Tensor]) -> float:
    """What sums in another order may differ by in float32.

    Temperatures count squared, so up to 100 times.
    """
    return 1e-5 * max(1.0, largest(*tensors)) * 100


@fuzz(30)
@given(data=st.data())
def test_equal_networks_are_at_distance_zero(case, data):
    tensors, options = data.draw(inputs(case, masked=data.draw(st.booleans())))
    if not case.is_distance:
        return
    tensors[1] = tensors[0].clone()
    assert abs(value_of(case, tensors, options).item()) <= 1e-6


@fuzz(30)
@given(data=st.data())
def test_the_order_of_images_and_rows_does_not_matter(case, data):
    tensors, options = data.draw(inputs(case, masked=data.draw(st.booleans())))
    order = data.draw(st.permutations(range(len(tensors[0]))))
    value = value_of(case, tensors, options)
    moved = {
        name: x[order] if isinstance(x, Tensor) else x for name, x in options.items()
    }
    shuffled = value_of(case, [x[order] for x in tensors], moved)
    torch.testing.assert_close(shuffled, value, rtol=1e-4, atol=slack_of(tensors))


@fuzz(40)
@given(data=st.data(), rubbish=st.sampled_from([float('nan'), float('inf'), -7.0]))
def test_what_a_mask_hides_is_never_seen(case, data, rubbish):
    tensors, options = data.draw(inputs(case, masked=True))
    hidden = options[case.mask] == 0
    if case.dims == 2:
        hidden = hidden[:, None]
    clean = [x.masked_fill(hidden, 0.0) for x in tensors]
    dirty = [x.masked_fill(hidden, rubbish) for x in tensors]
    gradients = []
    for student, *others in (clean, dirty):
        student.requires_grad_()
        value = value_of(case, [student, *others], options)
        value.backward()
        gradients.append((value.detach(), student.grad))
    (value, gradient), (found, found_gradient) = gradients
    assert torch.equal(found, value)
    assert torch.equal(found_gradient, gradient)
    assert not gradient[hidden.expand_as(gradient)].any()


class Critic(nn.Module):
    """A small critic of any map: its slope varies."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 1)
        ).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((1, 2, 3))


@fuzz(40)
@given(data=st.data())
def test_the_gradient_penalty_of_any_critic(data):
    case = Fuzzed(partial(gradient_penalty, None))
    (real, fake), _ = data.draw(inputs(case))
    torch.manual_seed(0)
    critic = Critic(
        real.shape[1], real.dtype if real.dtype == torch.float64 else torch.float32
    )
    mix = torch.rand(len(real), dtype=real.dtype)
    value = gradient_penalty(critic, real, fake, mix)
    assert value.shape == ()
    assert value.isfinite()
    assert value >= 0
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())
    assert critic.layers[0].weight.grad is not None
    order = data.draw(st.permutations(range(len(real))))
    shuffled = gradient_penalty(critic, real[order], fake[order], mix[order])
    torch.testing.assert_close(shuffled, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_no_rows_or_images_give_a_differentiable_zero(name, dtype):
    case = FUNCTIONS[name]
    shape = (0, case.columns or 3, 2, 2)[: case.dims]
    tensors = [
        torch.zeros(shape, dtype=dtype).requires_grad_()
        for _ in range(3 if case.target else 2)
    ]
    value = value_of(case, tensors, {})
    value.backward()
    assert value.item() == 0
    assert tensors[0].grad is not None


@st.composite
def sides(draw, name: str):
    """Both sides' levels as the table's own sample makes them, and the batch."""
    images = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(DTYPES))
    shapes = [(images, *shape[1:]) for shape in SHAPES]
    if name in ON_MAPS:
        width = 3 if CASES.get(name, Case()).learns else draw(st.integers(1, 20))
        count = draw(st.integers(1, 3))
        # A critic with BatchNorm takes no map of a single value.
        edge = st.integers(2 if CASES.get(name, Case()).learns else 1, 7)
        shapes = [(images, width, draw(edge), draw(edge)) for _ in range(count)]
    torch.manual_seed(draw(st.integers(0, 99)))
    scale = draw(st.sampled_from([1e-2, 1.0, 100.0]))
    both = []
    for _ in range(2):
        layout = draw(st.sampled_from(LAYOUTS))
        both.append(
            tuple(arranged(x * scale, layout) for x in sample(name, shapes, dtype))
        )
    edge = st.tuples(st.integers(0, 24), st.integers(0, 20))
    sizes = [draw(edge) for _ in range(images)] if draw(st.booleans()) else None
    batch = batch_of(images, sizes, objects=draw(st.booleans()))
    return both[0], both[1], batch, dtype


def examples_of(name: str) -> int:
    return 2 if CASES.get(name, Case()).learns else 6


#: Made when they are prepared, for the maps that they will see.
NETWORKS = {name for name, case in CASES.items() if case.has_networks}


@pytest.mark.parametrize('name', [n for n in NAMES if n not in NETWORKS])
def test_a_class_on_anything_that_its_taps_may_yield(name):
    @fuzz(examples_of(name))
    @given(drawn=sides(name), data=st.data())
    def check(drawn: Any, data: Any) -> None:
        student, teacher, batch, dtype = drawn
        loss = build(name, prepared=False)
        if dtype == torch.float64:
            loss = loss.double()
        student, teacher = leaves(student), leaves(teacher)
        value = call(name, loss, student, teacher, batch)
        assert value.shape == ()
        assert value.isfinite()
        wanted = max(dtype, torch.float32, key=lambda d: d.itemsize)
        assert value.dtype == wanted
        value.backward()
        for x in student:
            assert x.grad is not None
            assert x.grad.dtype == dtype
            assert x.grad.isfinite().all()
        assert all(x.grad is None for x in teacher)
        order = data.draw(st.permutations(range(len(student[0]))))
        moved = (tuple(x.detach()[order] for x in side) for side in (student, teacher))
        samples = [batch.data_samples[i] for i in order]
        other = call(name, loss, *moved, Batch(batch.inputs, samples))
        scale = largest(*student, *teacher)
        torch.testing.assert_close(
            other, value.detach(), rtol=1e-3, atol=1e-3 * max(scale, 1e-3)
        )
        if name in ON_HEADS:
            return
        plain = [
            tuple(x.detach().clone(memory_format=torch.contiguous_format) for x in side)
            for side in (student, teacher)
        ]
        torch.testing.assert_close(
            call(name, loss, *plain, batch),
            value.detach(),
            rtol=1e-3,
            atol=1e-3 * max(scale, 1e-3),
        )

    check()
