"""Teachers that are the student: its average, or its own deeper layers."""

import copy
import pickle

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from tiny_models import (
    detection_batch,
    losses_of,
    segmentation_batch,
    tiny_gfl,
    tiny_pspnet,
    tiny_two_stage,
    total,
)
from toy import (
    HINT,
    ToyNet,
    by_iteration,
    differences,
    load,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.cache.build import CacheBuilder
from mmkd.config import distill_config, student_config
from mmkd.losses import FeatureImitationLoss
from mmkd.own_teacher import AveragedTeacher, SelfTeacher
from mmkd.registry import MODELS
from mmkd.taps import Tap

LOGITS = dict(type='mmkd.SoftTargetLoss', at='head')
DEEPER = dict(
    type='mmkd.FeatureImitationLoss',
    at='backbone',
    teacher_at='neck',
    resize='bilinear',
)


def taught_by(teacher, losses=None, **changes) -> dict:
    return dict(
        type='mmkd.Distill',
        student=student(**changes),
        teacher=teacher,
        losses=losses or dict(loss_hint=HINT, loss_soft=LOGITS),
    )


def detector(tiny, teacher, losses, kind='mmkd.DistillDetector', scope='mmdet'):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(
            dict(
                type=kind,
                student=copy.deepcopy(tiny.model),
                teacher=teacher,
                losses=losses,
            )
        )
        model.init_weights()
    return model


@HOOKS.register_module(force=True)
class SeenWeights(Hook):
    """The student's and the teacher's weights, before and in every step."""

    def __init__(self):
        self.student, self.teacher = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.student.append(runner.model.neck.weight.detach().clone())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        average = runner.model.distiller.teacher.model
        self.teacher.append(average.neck.weight.clone())


def test_the_average_is_that_of_the_formula(tmp_path):
    model = taught_by(dict(ema=dict(momentum=0.1, gamma=2)))
    hooks = {'default_hooks.seen': dict(type='SeenWeights')}
    run = train(model, tmp_path, **hooks)
    seen = next(hook for hook in run.hooks if isinstance(hook, SeenWeights))
    average = seen.student[0]
    assert len(seen.student) == 8
    for step, (weights, theirs) in enumerate(zip(seen.student, seen.teacher)):
        if step:
            momentum = max(0.1, 2 / (2 + step))
            average = (1 - momentum) * average + momentum * weights
        torch.testing.assert_close(theirs, average)
    assert not torch.equal(seen.teacher[-1], seen.student[-1])
    # At first it is the student, and says what it says.
    assert recorded(run)[0]['loss_soft'] > 0  # other dropout
    assert recorded(run)[-1]['loss_hint'] > 0
    saved = load(tmp_path / 'epoch_2.pth')['state_dict']
    ToyNet().load_state_dict(saved)


@pytest.mark.parametrize('teacher', ['ema', 'self'])
def test_it_resumes_bit_for_bit(teacher, tmp_path):
    losses = dict(loss_deeper=DEEPER)
    if teacher == 'ema':
        losses['loss_hint'] = HINT
    changes = by_iteration(**{'train_cfg.max_iters': 6, 'train_cfg.val_interval': 6})
    run = train(taught_by(teacher, losses), tmp_path / 'a', **changes)
    first = str(tmp_path / 'a' / 'iter_3.pth')
    again = train(
        taught_by(teacher, losses),
        tmp_path / 'b',
        resume=True,
        load_from=first,
        **changes,
    )
    assert recorded(again) == recorded(run)[3:]
    assert differences(training_state(run), training_state(again)) == []
    ours, theirs = (r.model.distiller.teacher.state_dict() for r in (run, again))
    assert differences(ours, theirs) == []
    assert bool(ours) == (teacher == 'ema')


def test_a_run_that_had_another_teacher_may_go_on_with_the_average(tmp_path, capsys):
    before = taught_by('self', dict(loss_deeper=DEEPER))
    train(before, tmp_path / 'a', **{'train_cfg.max_epochs': 1})
    again = train(
        taught_by('ema', dict(loss_deeper=DEEPER)),
        tmp_path / 'b',
        resume=True,
        load_from=str(tmp_path / 'a' / 'epoch_1.pth'),
        **{'log_level': 'INFO'},
    )
    assert len(recorded(again)) == 4
    log = next((tmp_path / 'b').glob('*/*.log')).read_text()
    assert 'no average of the student' in log


def test_trying_a_step_on_a_copy_does_not_move_the_average(tmp_path):
    balance = {'default_hooks.balance': dict(type='mmkd.LossBalanceHook', interval=2)}
    plain = train(taught_by('ema'), tmp_path / 'a')
    watched = train(taught_by('ema'), tmp_path / 'b', **balance)
    assert differences(training_state(plain), training_state(watched)) == []
    ours, theirs = (r.model.distiller.teacher.state_dict() for r in (plain, watched))
    assert differences(ours, theirs) == []


def test_it_is_averaged_while_a_schedule_holds_the_terms_off(tmp_path):
    schedule = dict(
        type='mmkd.DistillScheduleHook',
        losses=dict(loss_hint=dict(begin=8), loss_soft=dict(begin=8)),
    )
    changes = {'default_hooks.schedule': schedule}
    run = train(taught_by('ema'), tmp_path, **changes)
    assert {step['loss_hint'] for step in recorded(run)} == {0}
    assert run.model.distiller.teacher.state_dict()['steps'] == 8


def test_own_layers_teach_in_one_pass_and_receive_nothing():
    model = MODELS.build(taught_by('self', dict(loss_deeper=DEEPER), dropout=0.0))
    calls = []
    model.backbone.register_forward_hook(lambda *args: calls.append(args[2].detach()))
    model.neck.register_forward_hook(lambda *args: calls.append(args[2].detach()))
    inputs = torch.randn(2, 3, 32, 32)
    loss = model(inputs, [1, 2], mode='loss')['loss_deeper']
    shallow, deep = calls
    assert shallow.shape != deep.shape
    loss.backward()
    assert model.backbone[0].weight.grad.abs().sum() > 0
    assert model.neck.weight.grad is None
    assert model.head.weight.grad is None
    weight, bias = model.distiller.losses.loss_deeper.adapter.parameters()
    ours = torch.nn.functional.conv2d(shallow, weight, bias)
    deep = torch.nn.functional.interpolate(
        deep, ours.shape[2:], mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(loss.detach(), (ours - deep).square().mean())


@pytest.mark.parametrize(
    ('taught', 'teaching'),
    [
        ('auxiliary_head', 'decode_head'),
        ('decode_head', 'auxiliary_head'),  # which runs in training alone
    ],
)
def test_a_segmentors_heads_teach_each_other(taught, teaching):
    losses = dict(
        loss_own=dict(
            type='mmkd.ChannelWiseDivergenceLoss',
            at=f'{taught}.conv_seg',
            teacher_at=f'{teaching}.conv_seg',
        )
    )
    model = detector(tiny_pspnet(16), 'self', losses, 'mmkd.DistillSegmentor', 'mmseg')
    found = losses_of(model.train(), segmentation_batch())
    assert found['loss_own'] > 0
    found['loss_own'].backward()
    assert getattr(model, taught).conv_seg.weight.grad.abs().sum() > 0
    assert getattr(model, teaching).conv_seg.weight.grad is None


class OtherTap(Tap):
    """Another way to tap a module."""


def test_one_tap_cannot_serve_two_ways():
    one = FeatureImitationLoss(at='backbone', teacher_at='neck', resize='bilinear')
    one.tap_types = dict(neck=OtherTap)
    other = FeatureImitationLoss(at='neck', teacher_at='head')
    with pytest.raises(ValueError, match="'neck' is tapped in two ways"):
        MODELS.build(taught_by('self', dict(loss_one=one, loss_other=other)))


@pytest.mark.parametrize(
    ('teacher', 'losses'),
    [
        ('ema', dict(loss_ld=dict(type='mmkd.LocalizationDistillationLoss'))),
        (
            'self',
            dict(
                loss_own=dict(
                    type='mmkd.FeatureImitationLoss',
                    at='backbone.layer3',
                    teacher_at='backbone.layer4',
                    resize='bilinear',
                )
            ),
        ),
    ],
)
def test_a_detector_learns_from_itself(teacher, losses):
    model = detector(tiny_gfl(16), teacher, losses)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    values = []
    for _ in range(3):
        found = losses_of(model, detection_batch())
        optimizer.zero_grad()
        total(found).backward()
        optimizer.step()
        values.append(found[next(iter(losses))].item())
    assert all(value >= 0 for value in values)
    assert values[-1] > 0
    stock = tiny_gfl(16)
    with DefaultScope.overwrite_default_scope('mmdet'):
        MODELS.build(stock.model).load_state_dict(model.state_dict())
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)
    assert isinstance(
        model.distiller.teacher, AveragedTeacher if teacher == 'ema' else SelfTeacher
    )


def test_it_follows_the_student_and_no_copy_of_it():
    model = MODELS.build(taught_by('ema'))
    teacher = model.distiller.teacher
    copied = copy.deepcopy(model)
    assert copied.distiller.teacher is teacher
    model.double()
    assert teacher.model.neck.weight.dtype == torch.float64
    names = [name for name, _ in model.named_parameters() if 'distiller' not in name]
    assert names == [name for name, _ in teacher.model.named_parameters()]
    assert not any(p.requires_grad for p in teacher.model.parameters())
    copied.float()(torch.randn(1, 3, 32, 32), mode='tensor')
    assert teacher.state_dict()['steps'] == 0


@pytest.mark.parametrize(
    ('teacher', 'error', 'match'),
    [
        (dict(ema=dict(momentun=0.1)), TypeError, 'options of MMEngine.*momentun'),
        (dict(ema=dict(momentum=3)), TypeError, 'momentum'),
        (
            dict(ema=dict(type='ToyNet')),
            TypeError,
            'averaged models|must be an average',
        ),
        (dict(ema=dict(type='NoSuch')), TypeError, 'NoSuch'),
        (
            dict(ema={}, device='cpu'),
            ValueError,
            "the student .'ema'. has no .* device",
        ),
        (dict(self=dict(a=1)), ValueError, "'self' has no options"),
    ],
)
def test_what_is_said_of_mistakes(teacher, error, match):
    losses = dict(loss_deeper=DEEPER)
    with pytest.raises(error, match=match):
        MODELS.build(taught_by(teacher, losses))


def test_a_layer_cannot_teach_itself():
    with pytest.raises(ValueError, match="loss_hint.*'neck' cannot teach itself"):
        MODELS.build(taught_by('self'))


def test_other_tools_say_that_there_is_no_other_network(tmp_path):
    gfl = tiny_gfl(16)
    ld = dict(loss_ld=dict(type='mmkd.LocalizationDistillationLoss'))
    cfg = distill_config(gfl, 'ema', ld)
    assert student_config(cfg).model == gfl.model
    with pytest.raises(ValueError, match='needs another network'):
        CacheBuilder(cfg, str(tmp_path))
    cfg.model.init_from_teacher = ['neck']
    with pytest.raises(ValueError, match='init_from_teacher needs another network'):
        make_runner(
            dict(taught_by('ema'), init_from_teacher=['neck']), tmp_path / 'run'
        )


def test_validation_and_copies_leave_the_average_alone():
    model = MODELS.build(taught_by('ema'))
    model.init_weights()
    teacher = model.distiller.teacher
    inputs = torch.randn(2, 3, 32, 32)
    copied = copy.deepcopy(model).train()
    first = copied(inputs, [1, 2], mode='loss')
    # What the first step will say: the teacher is the student, but for dropout.
    assert (
        differences(dict(teacher.model.named_parameters()), stock_weights(model)) == []
    )
    assert first['loss_hint'] > 0
    with torch.no_grad():
        model.eval()(inputs, [1, 2], mode='loss')
    assert teacher.state_dict()['steps'] == 0
    model.train()(inputs, [1, 2], mode='loss')
    assert teacher.state_dict()['steps'] == 1


def stock_weights(model) -> dict:
    return {k: v for k, v in model.named_parameters() if 'distiller' not in k}


def test_resuming_without_its_state_is_an_error(tmp_path):
    model = taught_by('ema', dict(loss_soft=LOGITS))
    train(model, tmp_path / 'a', **{'train_cfg.max_epochs': 1})
    with pytest.raises(RuntimeError, match='without the state.*average of the student'):
        train(
            model,
            tmp_path / 'b',
            resume=True,
            load_from=str(tmp_path / 'a' / 'epoch_1.pth'),
            **{'default_hooks.distiller_state': None},
        )


def test_a_stage_of_rois_cannot_teach_another_one():
    cascade = tiny_two_stage(16, 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    loss = dict(
        type='mmkd.WeightedSoftCrossEntropyLoss',
        at='roi_head.bbox_head.0',
        teacher_at='roi_head.bbox_head.2',
    )
    with pytest.raises(ValueError, match='the RoIs of another stage'):
        detector(cascade, 'self', dict(loss_own=loss))
