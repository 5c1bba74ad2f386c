"""What holds for every registered loss, whatever it computes.

A loss whose taps yield feature maps is covered by itself. One that needs more
(a head view, other arguments) gets a line in ``CASES``; one of several forms has a
line for each, named by the class and what distinguishes it.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

import mmkd.losses
from mmkd.batch import Batch
from mmkd.losses import DistillLoss
from mmkd.losses.paired_maps import PairedMapsLoss
from mmkd.registry import MODELS
from mmkd.taps import Call, HeadView

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
        head: Function of one side's levels, the batch and whether it is the student
            that makes the view of a dense head; ``None`` if the taps yield the
            levels themselves.
        any_size: Whether the teacher's maps may have another size.
        any_sign: Whether the value may be negative.
        learns: Whether the loss has something in it that a call in training changes.
        has_networks: Whether every level passes a network of its own, made when the
            loss is prepared.
        needs_batch: Whether it needs the boxes of the batch.
    """

    arguments: dict = field(default_factory=dict)
    sample: Callable[..., Levels] = random_levels
    head: Callable[..., Any] | None = None
    any_size: bool = False
    any_sign: bool = False
    learns: bool = False
    has_networks: bool = False
    needs_batch: bool = False


CLASSES, BINS = 3, 4


@lru_cache
def gfl_head() -> Any:
    """A real GFL head of two levels, with strides of 4 and 8 pixels."""
    from mmdet.models.dense_heads import GFLHead

    with DefaultScope.overwrite_default_scope('mmdet'):
        return GFLHead(
            num_classes=CLASSES,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            reg_max=BINS - 1,
            norm_cfg=dict(type='GN', num_groups=2),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=2,
                scales_per_octave=1,
                strides=[4, 8],
            ),
            train_cfg=dict(
                assigner=dict(type='ATSSAssigner', topk=4),
                allowed_border=-1,
                pos_weight=-1,
            ),
        )


@lru_cache
def rpn_head(use_sigmoid: bool = True) -> Any:
    """A real RPN head on the levels of the other one, every anchor of which counts."""
    from mmdet.models.dense_heads import RPNHead

    with DefaultScope.overwrite_default_scope('mmdet'):
        return RPNHead(
            in_channels=8,
            feat_channels=8,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid),
            anchor_generator=dict(
                type='AnchorGenerator', ratios=[1.0], scales=[2], strides=[4, 8]
            ),
            train_cfg=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.3,
                    neg_iou_thr=0.3,
                    min_pos_iou=0.1,
                ),
                allowed_border=-1,
                pos_weight=-1,
            ),
        )


def wide_levels(width: int, shapes=SHAPES, dtype=torch.float32, device='cpu') -> Levels:
    """Maps of the width that the head has, whatever the shapes say."""
    shapes = [(shape[0], width, *shape[2:]) for shape in shapes]
    return random_levels(shapes, dtype, device)


def head_view(
    levels: Levels,
    batch: Batch,
    student: bool,
    part: str,
    make: Callable[[], Any] = gfl_head,
    widths: tuple[int, int] = (CLASSES, 4 * BINS),
) -> HeadView:
    """What a head predicted, the levels as one part of it, and its real targets.

    Args:
        levels: Of classes or boxes.
        batch: The batch.
        student: Whether it has targets.
        part: ``'cls'`` or ``'box'``.
        make: Makes the head.
        widths: Of its maps of classes and of boxes.
    """
    from mmkd.det.views import DenseHeadView

    view = DenseHeadView('bbox_head', make())
    other = widths[0] if part == 'box' else widths[1]
    generators = [
        torch.Generator().manual_seed(sample.img_id) for sample in batch.data_samples
    ]
    # The other part belongs to the image, wherever that is in the batch. Quarters are
    # the same in every dtype.
    others = []
    for x in levels:
        images = [torch.randn(other, *x.shape[2:], generator=g) for g in generators]
        others.append((torch.stack(images).mul(4).round() / 4).to(x))
    maps = (others, levels) if part == 'box' else (levels, others)
    view.calls['forward'].append(Call((), {}, tuple(map(list, maps))))
    if student:
        metas = [sample.metainfo for sample in batch.data_samples]
        anchors, valid = view.module.get_anchors(
            view.sizes, metas, device=levels[0].device
        )
        objects = [
            sample.gt_instances.to(levels[0].device) for sample in batch.data_samples
        ]
        for item in objects:  # an RPN knows one class
            item.labels = item.labels % view.num_classes
        targets = view.module.get_targets(anchors, valid, objects, metas)
        view.calls['get_targets'].append(Call((), {}, targets))
    return view


LD = dict(sample=partial(wide_levels, 4 * BINS), head=partial(head_view, part='box'))
KD = dict(sample=partial(wide_levels, CLASSES), head=partial(head_view, part='cls'))
RPN = dict(
    sample=partial(wide_levels, 1),
    head=partial(head_view, part='cls', make=rpn_head, widths=(1, 4)),
)
SOFTMAX_RPN = dict(
    sample=partial(wide_levels, 2),
    head=partial(head_view, part='cls', make=partial(rpn_head, False), widths=(2, 4)),
)
RPN_BOXES = dict(
    sample=partial(wide_levels, 4),
    head=partial(head_view, part='box', make=rpn_head, widths=(1, 4)),
)
CRITIC = dict(type='mmkd.SelfAttentionCritic', channels=2)
CASES = {
    'BoundedRegressionLoss': Case(**RPN_BOXES),
    'BoundedRegressionLoss margin': Case(dict(margin=3.0), **RPN_BOXES),
    'BoxImitationLoss': Case(**RPN_BOXES),
    'ChannelWiseDivergenceLoss': Case(TEMPERATURES),
    'ClassificationDistillationLoss': Case(TEMPERATURES, **KD),
    'ClassificationDistillationLoss vlr': Case(dict(region='vlr'), **KD),
    'ClassificationDistillationLoss all': Case(
        dict(region='all', form='sigmoid'), **KD
    ),
    'ClassificationDistillationLoss paper': Case(dict(normalize='paper'), **KD),
    'LocalizationDistillationLoss': Case(TEMPERATURES, **LD),
    'LocalizationDistillationLoss vlr': Case(dict(region='vlr'), **LD),
    'LocalizationDistillationLoss paper': Case(dict(normalize='paper'), **LD),
    'LocalizationDistillationLoss vlr paper': Case(
        dict(region='vlr', normalize='paper', bin_reduction='sum'), **LD
    ),
    'DISTLoss': Case(TEMPERATURES, any_size=True),
    'DISTLoss head': Case(**SOFTMAX_RPN),
    'DKDLoss': Case(TEMPERATURES, **SOFTMAX_RPN),
    'FGDLoss': Case(dict(relation_weight=0.1), has_networks=True, needs_batch=True),
    'FGDLoss focal': Case(dict(relation_weight=0), needs_batch=True),
    'HolisticLoss': Case(
        dict(critic=dict(CRITIC, in_channels=3)),
        any_size=True,
        any_sign=True,
        learns=True,
    ),
    'MGDLoss': Case(learns=True, has_networks=True),
    'PairWiseLoss': Case(any_size=True),
    'PairWiseLoss max': Case(dict(pool='max', kernel=0.5), any_size=True),
    'PixelWiseLoss': Case(TEMPERATURES, any_size=True),
    'PixelWiseLoss later code': Case(dict(normalize='pami_code'), any_size=True),
    'PixelWiseLoss first code': Case(dict(normalize='cvpr19_code'), any_size=True),
    'SoftTargetLoss': Case(TEMPERATURES),
    'WeightedSoftCrossEntropyLoss': Case(**RPN),
    'WeightedSoftCrossEntropyLoss mu': Case(dict(mu=0.8), **RPN),
    'WeightedSoftCrossEntropyLoss softmax': Case(TEMPERATURES, **SOFTMAX_RPN),
}
#: Terms on all rows, with objects or without.
ON_ALL_ROWS = {
    'ClassificationDistillationLoss all',
    'DISTLoss head',
    'DKDLoss',
    *(name for name in CASES if name.startswith('WeightedSoftCrossEntropyLoss')),
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


#: It runs a part of the teacher; test_cross_kd.py has what holds of it.
ON_WHOLE_DETECTORS = {'CrossKDLoss'}
WITH_CASES = {name.split()[0] for name in CASES} | ON_WHOLE_DETECTORS
NAMES = sorted({*CASES, *(LOSSES.keys() - WITH_CASES)})
ON_MAPS = [name for name in NAMES if CASES.get(name, Case()).head is None]
ON_HEADS = [name for name in NAMES if name not in ON_MAPS]


def class_of(name: str) -> type[DistillLoss]:
    return LOSSES[name.split()[0]]


def build(name: str, loss_weight: float = 1.0, prepared: bool = True) -> DistillLoss:
    """A loss as the distiller builds it, with random but equal adapters."""
    case = CASES.get(name, Case())
    torch.manual_seed(5)
    try:
        loss = class_of(name)(at='neck', loss_weight=loss_weight, **case.arguments)
        if prepared:
            loss.prepare(*tapped(name, sample(name), sample(name)))
    except Exception as error:
        pytest.fail(f'{name} needs a case of its own in {__file__}: {error!r}')
    for parameter in loss.parameters() if case.has_networks else ():
        if not parameter.any():  # what starts at 0 hides what comes before it
            torch.nn.init.normal_(parameter)
    return loss.eval() if case.learns else loss


def sample(name: str, shapes=SHAPES, dtype=torch.float32, device='cpu') -> Levels:
    return CASES.get(name, Case()).sample(shapes, dtype, device)


#: Of four images, in pixels; the priors of both levels are positives somewhere.
BOXES = [
    [[4.0, 4, 13, 12], [2, 1, 17, 18]],
    [[1.0, 8, 19, 21]],
    [[9.0, 2, 16, 11]],
    [[1.0, 1, 7, 10], [3, 5, 18, 22]],
]


def batch_of(images: int = 4, shapes=None, objects: bool = True) -> Batch:
    """A batch of 24 x 20 pixels that the levels could be of."""
    samples = []
    for index in range(images):
        size = shapes[index] if shapes else (24, 20)
        sample = BaseDataElement(metainfo=dict(img_shape=size, img_id=index))
        sample.set_metainfo(dict(pad_shape=(24, 20)))
        boxes = torch.tensor(BOXES[index] if objects else []).reshape(-1, 4)
        labels = torch.arange(len(boxes)) + 1
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    return Batch(torch.zeros(images, 3, 24, 20), samples)


def tapped(name: str, student: Levels, teacher: Levels, batch=None) -> tuple[Any, Any]:
    """What the taps of both sides yield."""
    head = CASES.get(name, Case()).head
    if head is None:
        return student, teacher
    batch = batch or batch_of(len(student[0]))
    return head(student, batch, student=True), head(teacher, batch, student=False)


def call(name: str, loss: DistillLoss, student: Levels, teacher: Levels, batch=None):
    """The loss; one on a head never comes without a batch."""
    if name in ON_HEADS or CASES.get(name, Case()).needs_batch:
        batch = batch or batch_of(len(student[0]))
    return loss(*tapped(name, student, teacher, batch), batch)


def leaves(levels: Levels) -> Levels:
    return tuple(x.clone().requires_grad_() for x in levels)


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=ON_MAPS)
def name_on_maps(request) -> str:
    return request.param


@pytest.fixture(params=ON_HEADS)
def name_on_heads(request) -> str:
    return request.param


def test_every_loss_is_registered_and_public():
    def subclasses(cls):
        return {cls}.union(*map(subclasses, cls.__subclasses__()))

    ours = {c for c in subclasses(DistillLoss) if c.__module__.startswith('mmkd.')}
    # A base class computes nothing.
    losses = {c for c in ours if c.distance is not DistillLoss.distance}
    losses.remove(PairedMapsLoss)
    assert losses == set(LOSSES.values())
    for name, cls in LOSSES.items():
        if cls.__module__.startswith('mmkd.losses.'):
            assert name in mmkd.losses.__all__


def test_gradient_reaches_the_student_and_none_the_teacher(name, device):
    loss = build(name).to(device)
    student = leaves(sample(name, device=device))
    teacher = leaves(sample(name, device=device))
    value = call(name, loss, student, teacher)
    assert value.shape == ()
    assert value.device.type == device.type
    assert value > 0 or CASES[name].any_sign
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
        lambda *x: call(name, loss, x[: len(student)], teacher),
        (*student, *weights),
        fast_mode=name in ON_HEADS,  # many inputs; the targets are assigned anew
    )


@pytest.mark.parametrize('factor', [0.0, 0.25, 40.0])
def test_scales_with_the_weight(name, factor):
    student, teacher = sample(name), sample(name)
    base = call(name, build(name, 1.0), student, teacher)
    scaled = call(name, build(name, factor), student, teacher)
    torch.testing.assert_close(scaled, factor * base)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(name, dtype, device):
    # Not prepared: adapters are the model's business, as any convolution is.
    if CASES.get(name, Case()).has_networks:
        pytest.skip('its networks compute in the precision of the model')
    loss = build(name, prepared=False)
    student, teacher = (
        tuple(x * 100 for x in sample(name, dtype=dtype, device=device))
        for _ in range(2)
    )
    student = leaves(student)
    value = call(name, loss, student, teacher)
    value.backward()
    # Squares and sums of such values overflow in float16.
    floats = (tuple(x.float() for x in levels) for levels in (student, teacher))
    exact = call(name, loss, *floats)
    assert value.dtype == torch.float32
    assert value.isfinite()
    torch.testing.assert_close(value, exact, rtol=0, atol=0)
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in student)


def test_autocast_changes_no_more_than_the_adapters_rounding(name, device):
    loss = build(name).to(device)
    student, teacher = sample(name, device=device), sample(name, device=device)
    exact = call(name, loss, student, teacher)
    with torch.autocast(device.type, torch.bfloat16):
        value = call(name, loss, student, teacher)
        half = call(name, loss, tuple(x.bfloat16() for x in student), teacher)
    assert value.dtype == half.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=2e-2, atol=0)
    torch.testing.assert_close(half, exact, rtol=2e-2, atol=0)


def test_double_stays_double(name):
    loss = build(name).double()
    student, teacher = (sample(name, dtype=torch.float64) for _ in range(2))
    assert call(name, loss, student, teacher).dtype == torch.float64


def test_an_empty_batch_gives_a_differentiable_zero(name_on_maps):
    loss = build(name_on_maps)
    shapes = tuple((0, *shape[1:]) for shape in SHAPES)
    student = leaves(sample(name_on_maps, shapes))
    value = call(name_on_maps, loss, student, sample(name_on_maps, shapes))
    value.backward()
    assert value.item() == 0
    # DDP waits for every weight, also on a rank that had nothing to learn from.
    assert all(x.grad is not None for x in (*student, *loss.parameters()))
    assert all(x.grad.abs().sum() == 0 for x in loss.parameters())


def test_a_batch_of_nothing_but_padding_stays_finite(name):
    loss = build(name)
    student = leaves(sample(name))
    batch = batch_of(4, [(0, 0)] * 4, objects=False)
    value = call(name, loss, student, sample(name), batch)
    value.backward()
    assert value.isfinite()
    for x in (*student, *loss.parameters()):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_the_order_of_the_batch_does_not_matter(name):
    loss = build(name)
    student, teacher = sample(name), sample(name)
    batch = batch_of(4, [(24, 20), (9, 20), (24, 5), (13, 12)])
    order = [2, 0, 3, 1]
    value = call(name, loss, student, teacher, batch)
    shuffled = call(
        name,
        loss,
        tuple(x[order] for x in student),
        tuple(x[order] for x in teacher),
        Batch(batch.inputs, [batch.data_samples[i] for i in order]),
    )
    torch.testing.assert_close(shuffled, value)


def test_levels_are_averaged_and_may_come_in_any_container(name_on_maps):
    if CASES.get(name_on_maps, Case()).has_networks:
        pytest.skip('a level alone would pass the network of another one')
    loss = build(name_on_maps, prepared=False)
    student, teacher = sample(name_on_maps), sample(name_on_maps)
    batch = batch_of(len(student[0]))
    apart = [loss(s, t, batch) for s, t in zip(student, teacher)]
    together = loss(student, teacher, batch)
    torch.testing.assert_close(together, sum(apart) / len(apart))
    nested = loss([student[0], [student[1]]], dict(a=teacher[0], b=teacher[1]), batch)
    torch.testing.assert_close(nested, together)


class LogitsView(HeadView):
    def __init__(self, levels: Levels) -> None:
        self.levels = levels

    @property
    def logits(self) -> list[Tensor]:
        return list(self.levels)


def test_a_head_view_stands_for_its_logits(name_on_maps):
    loss = build(name_on_maps)
    student, teacher = sample(name_on_maps), sample(name_on_maps)
    views = LogitsView(student), LogitsView(teacher)
    batch = batch_of(len(student[0]))
    torch.testing.assert_close(loss(*views, batch), loss(student, teacher, batch))


def test_what_does_not_fit_is_an_error(name_on_maps):
    has_networks = CASES.get(name_on_maps, Case()).has_networks
    loss = build(name_on_maps, prepared=has_networks)
    student, teacher = sample(name_on_maps), sample(name_on_maps)
    if not CASES.get(name_on_maps, Case()).any_size:
        with pytest.raises(ValueError, match='same shape but have'):
            call(name_on_maps, loss, student[:1], (teacher[0][:, :, :-1],))
    with pytest.raises(ValueError, match='same number of levels but yield 2 .* and 1'):
        loss(student, teacher[:1])
    with pytest.raises(ValueError, match='same number of levels but yield 2 .* and 1'):
        loss.prepare(student, teacher[:1])
    with pytest.raises(TypeError, match='must yield a floating point tensor'):
        loss(student, None)


def test_sizes_that_differ_are_an_error_when_built(name_on_maps):
    if CASES.get(name_on_maps, Case()).any_size:
        pytest.skip('it brings them to one size')
    student, teacher = sample(name_on_maps), sample(name_on_maps)
    with pytest.raises(ValueError, match=r'\(4, 3, 6, 5\) and \(4, 3, 6, 4\)'):
        build(name_on_maps, prepared=False).prepare(student[0], teacher[0][..., :-1])


def test_images_without_objects(name_on_heads):
    """No positives and no region: a differentiable zero, but where all rows count."""
    loss = build(name_on_heads)
    student, teacher = leaves(sample(name_on_heads)), sample(name_on_heads)
    batch = batch_of(objects=False)
    value = call(name_on_heads, loss, student, teacher, batch)
    value.backward()
    assert all(x.grad is not None for x in student)
    if name_on_heads in ON_ALL_ROWS:
        assert value > 0
    else:
        assert value.item() == 0
        assert all(x.grad.abs().max() == 0 for x in student)


def test_heads_whose_maps_differ_are_an_error(name_on_heads):
    """When built: in a step rows of other places would be compared."""
    loss = build(name_on_heads, prepared=False)
    smaller = tuple(x[..., :-1] for x in sample(name_on_heads))
    views = tapped(name_on_heads, sample(name_on_heads), smaller)
    with pytest.raises(ValueError, match='student and teacher must have the same'):
        loss.prepare(*views)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_what_is_no_dense_head_is_an_error_when_built(name_on_heads, side):
    loss = build(name_on_heads, prepared=False)
    levels = sample(name_on_heads)
    views = dict(zip(('student', 'teacher'), tapped(name_on_heads, levels, levels)))
    views[side] = levels
    message = f'the {side} must be tapped at a .*head.* yields .*tuple'
    with pytest.raises(ValueError, match=message):
        loss.prepare(**views)
    with pytest.raises(ValueError, match='head.* runs? on a synthetic image'):
        loss.prepare(**{**views, side: None})


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
        class_of(name)(**{**arguments, **wrong})


@pytest.mark.parametrize(
    'copied',
    [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))],
    ids=['deepcopy', 'pickle'],
)
def test_copies_compute_the_same(name, copied):
    loss = build(name, 0.7)
    student, teacher = sample(name), sample(name)
    twin = copied(loss)
    assert torch.equal(
        call(name, twin, student, teacher), call(name, loss, student, teacher)
    )
    assert {id(p) for p in twin.parameters()}.isdisjoint(map(id, loss.parameters()))


def test_state_loads_into_another_instance(name):
    loss, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(loss.state_dict())
    student, teacher = sample(name), sample(name)
    assert torch.equal(
        call(name, other, student, teacher), call(name, loss, student, teacher)
    )


def test_repr_shows_tap_and_weight(name):
    arguments = CASES.get(name, Case()).arguments
    loss = class_of(name)(
        at='backbone.layer4', loss_weight=0.3, teacher_at='neck', **arguments
    )
    assert "at='backbone.layer4', loss_weight=0.3" in repr(loss)
    assert loss.teacher_at == 'neck'
    assert class_of(name)(at='neck', **arguments).teacher_at == 'neck'


def test_builds_from_a_config(name):
    cfg = dict(
        type=f'mmkd.{class_of(name).__name__}',
        at='neck',
        **CASES.get(name, Case()).arguments,
    )
    assert type(MODELS.build(cfg)) is class_of(name)
