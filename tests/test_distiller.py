"""The core invariants: a distilled model is its stock student, and more."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from tiny_models import (
    build,
    detection_batch,
    losses_of,
    segmentation_batch,
    tiny_gfl,
    tiny_pspnet,
    total,
)
from torch import nn

from mmkd.config import distill_config
from mmkd.distill import Distill
from mmkd.losses import FeatureImitationLoss

HINT = dict(type='mmkd.FeatureImitationLoss', at='neck')
CWD = dict(type='mmkd.ChannelWiseDivergenceLoss', at='neck')


def random_teacher(cfg):
    return dict(config=cfg.to_dict(), checkpoint=None, allow_random=True)


def distilled(student=None, teacher=None, **losses):
    student = student or tiny_gfl()
    cfg = distill_config(student, random_teacher(teacher or tiny_gfl(24)), losses)
    return build(cfg.model, student.default_scope)


@pytest.fixture(scope='module')
def stock():
    return build(tiny_gfl().model, 'mmdet')


@pytest.fixture
def model():
    return distilled(loss_hint=HINT, loss_cwd=CWD)


def test_is_an_instance_of_the_students_class(model, stock):
    from mmdet.models.detectors import GFL

    from mmkd.det import DistillDetector

    assert isinstance(model, GFL)
    assert isinstance(model, DistillDetector)
    names = dict(model.named_parameters())
    assert set(dict(stock.named_parameters())) == {
        name for name in names if not name.startswith('distiller.')
    }
    # Adapters of two losses over five levels, weight and bias.
    assert sum(name.startswith('distiller.') for name in names) == 2 * 5 * 2


def test_state_dict_is_the_stock_students_both_ways(model, stock):
    assert list(model.state_dict()) == list(stock.state_dict())
    fresh = copy.deepcopy(stock)
    fresh.load_state_dict(model.state_dict(), strict=True)
    adapter = model.distiller.losses['loss_hint'].adapter.convs[0].weight.clone()
    other = {
        k: torch.randn_like(v.float()).to(v) for k, v in stock.state_dict().items()
    }
    model.load_state_dict(other, strict=True)
    assert all(torch.equal(v, other[k]) for k, v in model.state_dict().items())
    assert torch.equal(
        model.distiller.losses['loss_hint'].adapter.convs[0].weight, adapter
    )


def test_strictness_is_kept(model, stock):
    state = stock.state_dict()
    state.pop('neck.lateral_convs.0.conv.weight')
    state['stranger'] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'neck.lateral_convs.0(.|\n)*stranger'):
        model.load_state_dict(state, strict=True)


def test_mmengine_loader_takes_a_stock_file_strictly(model, stock):
    from mmengine.runner.checkpoint import load_state_dict

    load_state_dict(model, stock.state_dict(), strict=True)
    assert torch.equal(
        model.neck.lateral_convs[0].conv.weight, stock.neck.lateral_convs[0].conv.weight
    )


def test_prediction_is_the_stock_students_bit_for_bit(model, stock):
    model.load_state_dict(stock.state_dict())
    model.eval(), stock.eval()
    batch = stock.data_preprocessor(detection_batch(), False)
    with torch.no_grad():
        ours = model(**copy.deepcopy(batch), mode='predict')
        theirs = stock(**copy.deepcopy(batch), mode='predict')
        tensors = (
            model(batch['inputs'], mode='tensor'),
            stock(batch['inputs'], mode='tensor'),
        )
    for a, b in zip(ours, theirs):
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
    assert torch.equal(tensors[0][0][0], tensors[1][0][0])


@pytest.mark.parametrize(
    ('student', 'losses', 'batch'),
    [
        (tiny_gfl, {}, detection_batch),
        (
            tiny_gfl,
            dict(
                loss_hint=dict(HINT, loss_weight=0), loss_cwd=dict(CWD, loss_weight=0)
            ),
            detection_batch,
        ),
        (
            tiny_pspnet,
            dict(loss_hint=dict(HINT, at='backbone', loss_weight=0)),
            segmentation_batch,
        ),
    ],
)
def test_weight_zero_is_the_stock_student_bit_for_bit(student, losses, batch):
    cfg = student()
    plain = build(cfg.model, cfg.default_scope)
    random.seed(1), np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1), np.random.seed(1)
    model = distilled(cfg, **losses)
    assert (random.random(), np.random.rand()) == expected
    for (name, p), q in zip(plain.named_parameters(), model.parameters()):
        assert torch.equal(p, q), name
    ours, theirs = losses_of(model, batch()), losses_of(plain, batch())
    assert set(ours) - set(theirs) == set(losses)
    assert all(ours[name] == 0 for name in losses)
    assert torch.equal(total(ours), total(theirs))
    total(ours).backward(), total(theirs).backward()
    mine = dict(model.named_parameters())
    for name, p in plain.named_parameters():
        assert (p.grad is None) == (mine[name].grad is None)
        assert p.grad is None or torch.equal(p.grad, mine[name].grad), name
    buffers = dict(model.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in plain.named_buffers())
    # Clipping must not see the adapters, either: they are frozen.
    assert not any(p.requires_grad for p in model.distiller.parameters())


def test_dry_run_leaves_buffers_and_train_flags_alone(stock):
    student = copy.deepcopy(stock)
    student.neck.eval()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    flags = [m.training for m in student.modules()]
    from mmkd.det import DistillDetector

    model = DistillDetector(
        student, copy.deepcopy(stock), dict(loss_hint=HINT, loss_cwd=CWD)
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    distiller = set(model.distiller.modules())
    assert [m.training for m in model.modules() if m not in distiller] == flags


def test_losses_are_the_formula_on_both_models_features(model):
    losses = losses_of(model, detection_batch())
    data = model.data_preprocessor(detection_batch(), True)
    teacher = model.distiller.teacher
    assert not teacher.model.training
    with torch.no_grad():
        ours = model.extract_feat(data['inputs'])
        theirs = teacher.model.extract_feat(data['inputs'])
    hint = model.distiller.losses['loss_hint']
    terms = []
    for level, (s, t) in enumerate(zip(ours, theirs)):
        adapted = hint.adapter.convs[level](s)
        # Padding: image 0 is 96 of 128 rows high, image 1 96 of 128 columns wide.
        stride = 128 / s.shape[-1]
        inside = torch.arange(s.shape[-1]) * stride < 96
        error = (adapted - t).square()
        kept = torch.cat(
            [error[0][:, inside].flatten(), error[1][:, :, inside].flatten()]
        )
        terms.append(kept.mean())
    torch.testing.assert_close(losses['loss_hint'], sum(terms) / len(terms))
    assert losses['loss_hint'] > 0


def test_gradients_reach_student_and_adapters_but_no_teacher(model):
    losses = losses_of(model, detection_batch())
    (losses['loss_hint'] + losses['loss_cwd']).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    for name, p in model.distiller.named_parameters():
        assert p.grad is not None, name
    assert model.bbox_head.gfl_cls.weight.grad is None
    assert all(p.grad is None for p in model.distiller.teacher.model.parameters())


def test_teacher_is_hidden(model):
    teacher = model.distiller.teacher
    ids = {id(p) for p in teacher.model.parameters()}
    assert not ids & {id(p) for p in model.parameters()}
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not any(m is teacher.model for m in model.modules())
    model.train()
    assert not any(m.training for m in teacher.model.modules())
    assert copy.deepcopy(model).distiller.teacher is teacher


def test_teacher_follows_moves_and_casts(model):
    before = model.distiller.teacher.model.neck.lateral_convs[0].conv.weight.clone()
    model.double()
    weight = model.distiller.teacher.model.neck.lateral_convs[0].conv.weight
    assert weight.dtype == torch.float64
    assert torch.equal(weight.float(), before)


def test_copies_and_pickles(model):
    batch = detection_batch()
    expected = {k: total({k: v}) for k, v in losses_of(model, batch).items()}
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied) is type(model)
        # Independent of the original: nothing recorded leaks between them.
        actual = {k: total({k: v}) for k, v in losses_of(copied, batch).items()}
        assert all(torch.equal(expected[k], actual[k]) for k in expected)
        assert copied.backbone is not model.backbone


def test_nothing_stays_behind_after_a_step(model):
    losses_of(model, detection_batch())
    for module in (*model.modules(), *model.distiller.teacher.model.modules()):
        assert 'forward' not in vars(module)
        assert not module._forward_hooks


def test_teacher_runs_no_further_than_needed(model):
    teacher = model.distiller.teacher.model
    ran = []
    teacher.neck.register_forward_pre_hook(lambda *_: ran.append('neck'))
    teacher.bbox_head.register_forward_pre_hook(lambda *_: ran.append('head'))
    losses_of(model, detection_batch())
    assert ran == ['neck']


def test_factor_zero_stops_the_teacher(model):
    for name in model.distiller.factors:
        model.distiller.factors[name] = 0.0
    model.distiller.teacher.model.forward = None  # would fail if called
    losses = losses_of(model, detection_batch())
    assert losses['loss_hint'] == losses['loss_cwd'] == 0


def test_factor_scales_the_term(model):
    full = losses_of(model, detection_batch())['loss_hint']
    model.distiller.factors['loss_hint'] = 0.25
    torch.testing.assert_close(
        losses_of(model, detection_batch())['loss_hint'], full * 0.25
    )


def test_data_preprocessor_is_used_where_the_student_has_none():
    cfg = tiny_gfl()
    preprocessor = cfg.model.pop('data_preprocessor')
    wrapped = distill_config(cfg, random_teacher(tiny_gfl()), dict(loss_hint=HINT))
    wrapped.model.data_preprocessor = preprocessor
    model = build(wrapped.model, 'mmdet')
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        preprocessor.mean
    )


def test_segmentor_views_feed_losses():
    model = distilled(
        tiny_pspnet(),
        tiny_pspnet(24),
        loss_cwd=dict(CWD, at='decode_head.conv_seg'),
        loss_soft=dict(type='mmkd.SoftTargetLoss', at='decode_head'),
    )
    losses = losses_of(model, segmentation_batch())
    assert {'decode.loss_ce', 'aux.loss_ce', 'loss_cwd', 'loss_soft'} <= set(losses)
    # The convolution is an existing width: no adapter.
    assert model.distiller.losses['loss_cwd'].adapter is None
    assert losses['loss_cwd'] > 0
    assert losses['loss_soft'] > 0


def test_self_distillation_without_an_adapter_is_zero(stock):
    from mmkd.det import DistillDetector

    model = DistillDetector(
        copy.deepcopy(stock), copy.deepcopy(stock), dict(loss_cwd=CWD)
    )
    model.eval()  # BatchNorm on both sides alike
    data = model.data_preprocessor(detection_batch(), True)
    assert model(**data, mode='loss')['loss_cwd'].abs() < 1e-6


def test_generic_model_without_a_loss_method():
    from mmengine.model import BaseModel

    from mmkd.distill import Distill

    class Classifier(BaseModel):
        def __init__(self, width):
            super().__init__()
            self.body = torch.nn.Conv2d(3, width, 3, 2)
            self.head = torch.nn.Linear(width, 5)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            scores = self.head(self.body(inputs).mean((2, 3)))
            if mode == 'loss':
                return dict(
                    loss=torch.nn.functional.cross_entropy(scores, data_samples)
                )
            return scores

    model = Distill(
        Classifier(4),
        Classifier(8),
        dict(
            loss_soft=dict(type='mmkd.SoftTargetLoss', at='head', temperature=2),
            loss_hint=dict(type='mmkd.FeatureImitationLoss', at='body'),
        ),
    )
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 3])
    losses = model(images, labels, mode='loss')
    assert set(losses) == {'loss', 'loss_soft', 'loss_hint'}
    s, t = model(images), model.distiller.teacher.model(images)
    p = (t / 2).softmax(1)
    expected = 4 * (p * (p.log() - (s / 2).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(losses['loss_soft'], expected)


@pytest.mark.parametrize(
    ('losses', 'error', 'message'),
    [
        (dict(hint=HINT), ValueError, "contain 'loss' but one is 'hint'"),
        ([HINT], TypeError, 'losses must be a dict'),
        (
            dict(loss_a=dict(HINT, at='nekc')),
            ValueError,
            "not a sub-module of GFL; did you mean 'neck'",
        ),
        (dict(loss_a=dict(at='neck')), ValueError, 'loss_a must have a type'),
        (dict(loss_a=dict(HINT, loss_weight=-1)), ValueError, '>= 0 but is -1'),
        (dict(loss_a=dict(type='GIoULoss')), TypeError, 'must be a distillation loss'),
        (
            dict(loss_a=dict(HINT, at='backbone', teacher_at='neck')),
            ValueError,
            'same number of levels but yield 4 .* and 5',
        ),
        (
            dict(loss_a=dict(HINT, at='backbone.layer1', teacher_at='backbone.layer2')),
            ValueError,
            r'maps of one size .* \(2, 8, 32, 32\) and \(2, 16, 16, 16\)',
        ),
    ],
)
def test_what_a_user_gets_wrong_is_said_when_the_model_is_built(losses, error, message):
    cfg = distill_config(tiny_gfl(), random_teacher(tiny_gfl()), {})
    cfg.model['losses'] = losses
    with pytest.raises(error, match=message):
        build(cfg.model, 'mmdet')


def test_a_term_named_like_a_stock_loss_is_an_error():
    with pytest.raises(ValueError, match='loss_cls: a stock loss has this name'):
        distilled(loss_cls=HINT)


def test_resize_bridges_other_strides():
    model = distilled(
        loss_hint=dict(
            HINT, at='backbone.layer1', teacher_at='backbone.layer2', resize='bilinear'
        )
    )
    losses = losses_of(model, detection_batch())
    losses['loss_hint'].backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_start_line_names_terms_taps_teacher_and_hash(model):
    text = model.distiller.summary()
    assert model.distiller.teacher.digest in text
    assert "loss_hint = FeatureImitationLoss(at='neck', loss_weight=1.0)" in text


def test_a_checkpoint_of_the_whole_model_initialises_the_student(stock, tmp_path):
    path = tmp_path / 'coco.pth'
    torch.save(dict(state_dict=stock.state_dict()), path)
    cfg = tiny_gfl(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model = distilled(cfg, tiny_gfl(24), loss_hint=HINT)
    assert all(
        torch.equal(v, stock.state_dict()[k]) for k, v in model.state_dict().items()
    )


def test_keywords_in_the_order_of_the_data_set(model):
    data = model.data_preprocessor(detection_batch(), True)
    swapped = dict(data_samples=data['data_samples'], inputs=data['inputs'])
    model.eval()
    losses = model(**swapped, mode='loss')
    expected = model(data['inputs'], data['data_samples'], mode='loss')
    assert torch.equal(losses['loss_hint'], expected['loss_hint'])


def test_public_names_are_on_the_package():
    import mmkd
    from mmkd.det import DistillDetector

    assert mmkd.DistillDetector is DistillDetector
    assert mmkd.losses.feature_imitation_loss is not None
    assert mmkd.DistillScheduleHook is mmkd.HOOKS.get('mmkd.DistillScheduleHook')
    with pytest.raises(AttributeError, match="no attribute 'DistilDetector'"):
        _ = mmkd.DistilDetector


class _Pyramid(BaseModel):
    """Maps of strides 8 and 16, of pictures that are large enough."""

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self.smallest = smallest
        self.body = nn.ModuleList(nn.Conv2d(3, 4, 1, stride=s) for s in (8, 16))
        self.neck = nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if len(inputs[0, 0]) < self.smallest:
            raise ValueError('too small')
        return self.neck([conv(inputs) for conv in self.body])


@pytest.mark.parametrize('sizes', [(256, 64), (64, 256)])
def test_levels_are_paired_on_pictures_of_one_size(sizes):
    hint = FeatureImitationLoss(at='neck', levels='stride')
    student, teacher = map(_Pyramid, sizes)
    Distill(student, teacher=teacher, losses=dict(loss_hint=hint))
    assert [tuple(pair) for pair in hint.levels] == [(0, 0), (1, 1)]
