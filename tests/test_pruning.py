"""What nobody reads is not computed, and what is read stays the same bit for bit."""

import collections
import copy

import pytest
import torch
from mmdet.registry import MODELS as DET
from mmengine.registry import init_default_scope
from tiny_models import (
    detection_batch,
    distilled_detector,
    tiny_gfl,
    tiny_two_stage,
    zoo,
)
from torch import nn

from mmkd.batch import Batch
from mmkd.dry_run import synthetic_samples
from mmkd.economy import Economy
from mmkd.pruning import Pruning
from mmkd.taps import Tap, record
from mmkd.teacher import Teacher

FIELDS = dict(
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss'),
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
)


def tiny(name):
    """A stock one-stage detector, narrow, that has two towers."""
    cfg = copy.deepcopy(zoo(name).model)
    cfg.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.backbone.update(norm_cfg=dict(type='BN', requires_grad=True), style='pytorch')
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=32)
    cfg.bbox_head.update(
        in_channels=32, feat_channels=32, num_classes=3, stacked_convs=2
    )
    init_default_scope('mmdet')
    return DET.build(cfg)


def calls_of(model, function):
    """How often every convolution ran while a function did."""
    count = collections.Counter()
    hooks = [
        m.register_forward_hook(lambda *_, name=name: count.update([name]))
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    # A stand-in replaces `forward`, which hooks do not see: count what it takes.
    original = torch.nn.functional.conv2d
    real = collections.Counter()

    def conv2d(x, weight, *args):
        real.update([weight.data_ptr()])
        return original(x, weight, *args)

    torch.nn.functional.conv2d = conv2d
    try:
        result = function()
    finally:
        torch.nn.functional.conv2d = original
        for hook in hooks:
            hook.remove()
    names = {m.weight.data_ptr(): n for n, m in model.named_modules() if n in count}
    return result, {names[key] for key in real}


def distilled(losses):
    model = distilled_detector(tiny_gfl(8), tiny_gfl(), losses)
    return model, model.distiller


def run(distiller, names=None):
    teacher = distiller.teacher
    batch = Batch(torch.randn(2, 3, 96, 128), synthetic_samples((96, 128)))
    reads = distiller._reads(names or distiller.losses)
    types = {path: distiller._taps['teacher'][path] for path in reads}
    stop = {path: distiller._teacher_calls[path] for path in reads}
    return calls_of(teacher.model, lambda: teacher.run(batch, types, stop, reads))


@pytest.mark.parametrize(
    ('terms', 'computed', 'left_out'),
    [
        (('loss_ld',), 'reg', 'cls'),
        (('loss_kd',), 'cls', 'reg'),
        (('loss_hint',), 'neck', 'bbox_head'),
        (('loss_ld', 'loss_kd'), 'cls', 'nothing'),
    ],
)
def test_one_tower_of_two(terms, computed, left_out):
    _, distiller = distilled({name: FIELDS[name] for name in terms})
    _, ran = run(distiller)
    assert any(computed in name for name in ran)
    assert not any(left_out in name for name in ran)
    assert any('backbone' in name for name in ran)


def test_a_term_that_a_schedule_switched_off_is_not_computed_for():
    _, distiller = distilled(dict(loss_ld=FIELDS['loss_ld'], loss_kd=FIELDS['loss_kd']))
    assert any('cls' in name for name in run(distiller)[1])
    assert not any('cls' in name for name in run(distiller, ['loss_ld'])[1])
    assert any('cls' in name for name in run(distiller)[1])


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'mmdet::atss/atss_r50_fpn_1x_coco.py',
        'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    ],
)
@pytest.mark.parametrize(('field', 'other'), [('logits', 'reg'), ('boxes', 'cls')])
def test_heads_with_two_towers(name, field, other):
    from mmkd.det.views import DenseHeadView

    model = tiny(name)
    plain, teacher = Teacher(copy.deepcopy(model)), Teacher(model)
    types, reads = dict(bbox_head=DenseHeadView), dict(bbox_head=frozenset({field}))
    teacher.economize(teacher.dry_run(types), reads)
    batch = Batch(torch.randn(2, 3, 64, 96), synthetic_samples((64, 96)))
    whole = plain.run(batch, types)['bbox_head']
    taps, ran = calls_of(model, lambda: teacher.run(batch, types, reads=reads))
    assert not any(f'{other}_convs' in name for name in ran)
    assert len(getattr(whole, field)) == 5
    for x, y in zip(getattr(whole, field), getattr(taps['bbox_head'], field)):
        assert x.abs().max() > 0
        # Channels-last convolutions round in another order.
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-5)


def test_what_was_not_computed_cannot_be_read():
    _, distiller = distilled(dict(loss_ld=FIELDS['loss_ld']))
    taps, _ = run(distiller)
    view = taps['bbox_head']
    assert len(view.distributions) == 5
    message = r"logits of 'bbox_head' were not computed: .*\['distributions'\]"
    with pytest.raises(RuntimeError, match=message):
        view.logits  # noqa: B018
    with pytest.raises(RuntimeError, match='not computed'):
        view.scores  # noqa: B018


def test_losses_are_those_of_an_unpruned_teacher():
    losses = {}
    for prune in (False, True):
        torch.manual_seed(0)
        terms = dict(loss_ld=dict(FIELDS['loss_ld'], region='vlr'))
        model = distilled_detector(tiny_gfl(8), tiny_gfl(), terms, prune=prune)
        data = model.data_preprocessor(detection_batch(), True)
        losses[prune] = model(**data, mode='loss')['loss_ld']
    assert losses[True] > 0
    assert torch.equal(losses[True], losses[False])


def test_weights_that_are_not_read_stay_where_they_are():
    model, distiller = distilled(dict(loss_ld=FIELDS['loss_ld']))
    network = distiller.teacher.model
    model.to(torch.float64)
    assert network.backbone.conv1.weight.dtype == torch.float64
    assert network.bbox_head.gfl_reg.weight.dtype == torch.float64
    assert network.bbox_head.gfl_cls.weight.dtype == torch.float32
    # Whoever wants to see everything gets it.
    batch = Batch(torch.randn(1, 3, 64, 64).double(), synthetic_samples((64, 64), 1))
    distiller.teacher.use_all()
    network.double()
    taps = distiller.teacher.run(batch, distiller._taps['teacher'])
    assert taps['bbox_head'].logits[0].dtype == torch.float64


def test_regions_need_the_box_head_later():
    losses = dict(
        loss_soft=dict(type='mmkd.WeightedSoftCrossEntropyLoss'),
        loss_hint=FIELDS['loss_hint'],
    )
    model = distilled_detector(tiny_two_stage(8), tiny_two_stage(), losses)
    model.double()
    network = model.distiller.teacher.model
    assert network.roi_head.bbox_head.fc_cls.weight.dtype == torch.float64
    assert network.neck.lateral_convs[0].conv.weight.dtype == torch.float64
    assert network.rpn_head.rpn_conv.weight.dtype == torch.float32


class Hidden(nn.Module):
    """A network with a part whose use no gradient shows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        with torch.no_grad():
            hidden = self.first(inputs)
        return self.second(inputs + hidden)


def test_a_part_that_runs_without_gradients_is_kept():
    teacher = Teacher(Hidden(), economy=Economy(fold_norms=False))
    teacher.economize(teacher.dry_run({'second': Tap}), {'second': None})
    x = torch.randn(1, 3, 4, 4)
    value = teacher.run(Batch(x), {'second': Tap}, reads={'second': None})
    assert torch.allclose(value['second'].value, teacher.model(x), atol=1e-6)


class Fork(nn.Module):
    """A dead branch that a functional in-place operation follows."""

    def __init__(self):
        super().__init__()
        self.trunk, self.left = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 5, 3, 2, padding=1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.trunk(inputs)
        y = self.right(x)
        y += 1
        return self.left(x), y


def test_a_branch_that_cannot_be_left_out_is_computed():
    teacher = Teacher(Fork(), economy=Economy(fold_norms=False))
    teacher.economize(
        teacher.dry_run({'left': Tap, 'right': Tap}), {'left': None, 'right': None}
    )
    x = torch.randn(1, 3, 8, 8)
    taps = teacher.run(Batch(x), {'left': Tap}, {'left': 1}, {'left': None})
    assert torch.allclose(taps['left'].value, teacher.model(x)[0], atol=1e-6)


def test_stand_ins_have_the_shape_and_take_no_memory():
    model = Fork().eval().requires_grad_(False)
    x = torch.randn(2, 3, 9, 7, requires_grad=True)

    def look():
        with record(model, {'left': Tap, 'right': Tap}) as taps:
            model(x)
        return taps

    pruning = Pruning(model, look, {'left': None, 'right': None})
    assert pruning.idle({'left': None, 'right': None}) == {}
    ((module, stand_in),) = pruning.idle({'left': None}).items()
    assert module is model.right
    zeros = stand_in(x.detach())
    assert zeros.shape == model.right(x).shape == (2, 5, 5, 4)
    assert zeros.untyped_storage().nbytes() == 4
    with pruning.without({'left': None}):
        assert model.right(x).abs().sum() == 0
    assert model.right(x).abs().sum() > 0
