"""Several teachers: each says to its own terms what it would say alone."""

import copy

import pytest
import torch
from mmengine.config import Config
from tiny_models import (
    build,
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
    by_iteration,
    differences,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.benchmark.setting import Setting
from mmkd.cache.build import CacheBuilder
from mmkd.det import DistillDetector
from mmkd.losses.class_map import ClassMap
from mmkd.preflight.findings import Findings
from mmkd.preflight.fit_report import check_fit, inputs_told
from mmkd.seg import DistillSegmentor
from mmkd.teacher_group import TeacherGroup

TERMS = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_cross=dict(type='mmkd.CrossKDLoss', index=1),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss', region='all'),
)


GFL = tiny_gfl(16, bbox_head=dict(stacked_convs=2))


def rough(cfg, scope='mmdet', seed=0):
    """A network that says something in every output, about other things per seed."""
    model = build(cfg.model, scope, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'head' in name:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * 0.1)
    return model


@pytest.fixture(scope='module')
def networks():
    return [rough(GFL, seed=seed) for seed in range(3)]


def distilled(ours, teacher, losses):
    torch.manual_seed(0)
    return DistillDetector(copy.deepcopy(ours), copy.deepcopy(teacher), losses)


def of(name, terms=TERMS, suffix=''):
    return {f'{k}{suffix}': dict(cfg, teacher=name) for k, cfg in terms.items()}


def test_each_says_what_it_would_say_alone(networks):
    ours, a, b = networks
    single = [distilled(ours, teacher, TERMS) for teacher in (a, b)]
    alone = [losses_of(model, detection_batch()) for model in single]
    both = distilled(
        ours, dict(teachers=dict(a=a, b=b)), {**of('a'), **of('b', suffix='_b')}
    )
    for name in TERMS:  # adapters are drawn
        for model, its in zip(single, (name, f'{name}_b')):
            state = model.distiller.losses[name].state_dict()
            both.distiller.losses[its].load_state_dict(state)
    found = losses_of(both, detection_batch())
    for name in TERMS:
        assert torch.equal(found[name], alone[0][name])
        assert torch.equal(found[f'{name}_b'], alone[1][name])
        assert not torch.equal(found[name], found[f'{name}_b'])
    assert torch.equal(found['loss_cls'][0], alone[0]['loss_cls'][0])
    total(found).backward()
    assert all(
        p.grad is None
        for member in both.distiller.teacher.members.values()
        for p in member.model.parameters()
    )
    assert set(both.state_dict()) == set(ours.state_dict())


def test_a_teacher_that_nobody_listens_to_does_not_run(networks):
    ours, a, b = networks
    model = distilled(
        ours,
        dict(teachers=dict(a=a, b=b)),
        {**of('a', dict(loss_hint=HINT)), **of('b', dict(loss_b=HINT))},
    )
    ran = []
    for name, member in model.distiller.teacher.members.items():
        member.model.backbone.register_forward_hook(lambda *_, n=name: ran.append(n))
    losses_of(model, detection_batch())
    assert ran == ['a', 'b']
    model.distiller.factors['loss_b'] = 0.0
    assert losses_of(model, detection_batch())['loss_b'] == 0
    assert ran == ['a', 'b', 'a']


def test_parts_of_each_start_a_student(networks):
    ours, a, b = networks
    start = {'neck': 'a.neck', 'bbox_head.gfl_reg': 'b.bbox_head.gfl_reg'}
    teachers = dict(teachers=dict(a=copy.deepcopy(a), b=copy.deepcopy(b)))
    model = DistillDetector(
        copy.deepcopy(ours), teachers, of('a'), init_from_teacher=start
    )
    model.init_weights()
    weights = model.state_dict()
    for prefix, teacher in (('neck.', a), ('bbox_head.gfl_reg.', b)):
        for name, value in teacher.state_dict().items():
            if name.startswith(prefix):
                assert torch.equal(weights[name], value)
    with pytest.raises(ValueError, match=r"must start with the name .*'a\.neck'"):
        DistillDetector(
            copy.deepcopy(ours), teachers, of('a'), init_from_teacher=['neck']
        )


def toy_pair(**more):
    losses = dict(loss_a=dict(HINT, teacher='wide'), loss_b=dict(HINT, teacher='deep'))
    entry = dict(config=dict(model=student(width=12)), checkpoint=None)
    entry['allow_random'] = True
    other = copy.deepcopy(entry)
    other['config']['model']['width'] = 16
    return dict(
        type='mmkd.Distill',
        student=student(),
        teacher=dict(teachers=dict(wide=entry, deep=other)),
        losses=losses,
        **more,
    )


def test_it_trains_and_resumes_bit_for_bit(tmp_path):
    whole = train(toy_pair(), tmp_path / 'whole')
    first, second = recorded(whole)[0], recorded(whole)[-1]
    assert 0 < second['loss_a'] < first['loss_a']
    assert 0 < second['loss_b'] < first['loss_b']
    changes = by_iteration(**{'train_cfg.max_iters': 6, 'train_cfg.val_interval': 6})
    run = train(toy_pair(), tmp_path / 'a', **changes)
    start = str(tmp_path / 'a' / 'iter_3.pth')
    again = train(toy_pair(), tmp_path / 'b', resume=True, load_from=start, **changes)
    assert recorded(again) == recorded(run)[3:]
    assert differences(training_state(run), training_state(again)) == []


# Teachers of other classes.


def test_of_sigmoids_the_known_classes_are_compared(networks):
    """Moving what a teacher says of a class that is not shared changes nothing."""
    ours, a, _ = networks
    wanted = [2, None, 0]
    kd = dict(loss_kd=dict(TERMS['loss_kd'], form='sigmoid', teacher='a'))
    entry = dict(teachers=dict(a=dict(config=GFL, classes=wanted)))
    entry['teachers']['a'].update(checkpoint=None, allow_random=True)
    model = distilled(ours, entry, kd)
    teacher = model.distiller.teacher.members['a'].model
    teacher.load_state_dict(a.state_dict(), strict=False)
    before = losses_of(model, detection_batch())['loss_kd']
    head = {'teacher': teacher.bbox_head.gfl_cls, 'student': model.bbox_head.gfl_cls}
    moved = {}
    for side, conv in head.items():
        for index in range(3):
            with torch.no_grad():
                conv.bias[index] += 1
                after = losses_of(model, detection_batch())['loss_kd']
                conv.bias[index] -= 1
            moved[side, index] = not torch.equal(after, before)
    assert moved == {
        ('teacher', 0): True,
        ('teacher', 1): False,
        ('teacher', 2): True,
        ('student', 0): True,
        ('student', 1): False,
        ('student', 2): True,
    }


def test_of_a_softmax_all_others_are_one():
    s, t = torch.randn(4, 4), torch.randn(4, 6)  # 3 and 5 classes, background last
    ours, theirs = ClassMap([4, None, 1], 3, 5).alike(s, t, False, True)
    p, q = s.double().softmax(1), t.double().softmax(1)
    expected = torch.stack([p[:, 0], p[:, 2], p[:, 1] + p[:, 3]], 1)
    torch.testing.assert_close(ours.double().softmax(1), expected)
    rest = q[:, 0] + q[:, 2] + q[:, 3] + q[:, 5]
    expected = torch.stack([q[:, 4], q[:, 1], rest], 1)
    torch.testing.assert_close(theirs.double().softmax(1), expected)


def test_without_others_on_one_side_shares_are_compared():
    s, t = torch.randn(2, 2, 3, 3), torch.randn(2, 4, 3, 3)
    ours, theirs = ClassMap([3, 1], 2, 4).alike(s, t, False, False)
    assert torch.equal(ours, s)
    shares = t.softmax(1)[:, [3, 1]]
    expected = shares / shares.sum(1, keepdim=True)
    torch.testing.assert_close(theirs.softmax(1), expected)


def test_of_a_segmentor_with_other_classes():
    """A teacher that has the student's classes twice, in another order."""
    ours, a = (rough(tiny_pspnet(16), 'mmseg', seed) for seed in (0, 1))
    count = ours.decode_head.num_classes
    cfg = tiny_pspnet(16)
    for name in ('decode_head', 'auxiliary_head'):
        cfg.model[name].num_classes = count + 1
    larger = rough(cfg, 'mmseg', 1)
    order = [*range(1, count), 0]  # the teacher's place of every class
    state = larger.state_dict()
    for name, value in a.state_dict().items():
        if '.conv_seg.' in name:
            new = torch.full_like(state[name], -1e4 if name.endswith('bias') else 0)
            new[order] = value
            state[name] = new  # its last class is never seen
        else:
            state[name] = value
    larger.load_state_dict(state)
    types = dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss'),
        loss_dkd=dict(type='mmkd.DKDLoss', at='decode_head'),
        loss_dist=dict(type='mmkd.DISTLoss', at='decode_head'),
    )
    found = []
    for teacher, classes in ((a, None), (larger, order)):
        terms = {
            k: dict(cfg, **({'teacher_classes': classes} if classes else {}))
            for k, cfg in types.items()
        }
        model = DistillSegmentor(copy.deepcopy(ours), copy.deepcopy(teacher), terms)
        found.append(losses_of(model, segmentation_batch()))
    for name in types:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-4, atol=1e-6)


def test_pixels_of_classes_that_the_teacher_does_not_know_are_left_out():
    """A teacher of two classes alone: it calls all others one of them."""
    ours = rough(tiny_pspnet(16), 'mmseg', 0)
    cfg = tiny_pspnet(16)
    for name in ('decode_head', 'auxiliary_head'):
        cfg.model[name].num_classes = 2
    teacher = rough(cfg, 'mmseg', 1)
    classes = [None, 1, *[None] * (ours.decode_head.num_classes - 3), 0]
    terms = dict(
        loss_pixel=dict(type='mmkd.PixelWiseLoss', teacher_classes=classes),
        loss_dkd=dict(type='mmkd.DKDLoss', at='decode_head', teacher_classes=classes),
    )
    model = DistillSegmentor(copy.deepcopy(ours), copy.deepcopy(teacher), terms)
    raw = segmentation_batch()
    known = [1, len(classes) - 1]
    for sample in raw['data_samples']:
        labels = sample.gt_sem_seg.data
        labels[:, 32:] = known[0]
        labels[:, :32] = 0  # a class that the teacher does not know
    whole = losses_of(model, raw)
    for sample in raw['data_samples']:
        sample.gt_sem_seg.data[:, :32] = 255
    without = losses_of(model, raw)
    for name in terms:
        assert whole[name] > 0
        torch.testing.assert_close(whole[name], without[name])


def test_an_rpn_knows_objects_only():
    """The classes of an entry are those of the box head."""
    cfgs = [tiny_two_stage(16), tiny_two_stage(24, classes=5)]
    entry = dict(config=cfgs[1], checkpoint=None, allow_random=True)
    entry['classes'] = [4, None, 2]
    soft = 'mmkd.WeightedSoftCrossEntropyLoss'
    terms = dict(
        loss_rpn=dict(type=soft, at='rpn_head', teacher='a'),
        loss_rcn=dict(type=soft, at='roi_head.bbox_head', teacher='a'),
        loss_box=dict(type='mmkd.BoundedRegressionLoss', margin=0.5, teacher='a'),
    )
    model = distilled(rough(cfgs[0]), dict(teachers=dict(a=entry)), terms)
    assert model.distiller.losses['loss_rpn']._class_map is None
    assert model.distiller.losses['loss_rcn']._class_map.ours == [0, 2]
    found = losses_of(model, detection_batch())
    assert all(found[name] > 0 for name in ('loss_rpn', 'loss_rcn'))
    assert found['loss_box'].isfinite()
    total(found).backward()


# What users get wrong.


@pytest.mark.parametrize(
    ('teachers', 'term', 'message'),
    [
        (dict(a='x', b='x'), {}, r"which of the teachers .*'a' or 'b'.* says None"),
        (dict(a='x'), dict(teacher='c'), r"listens to, 'a', but says 'c'"),
        ({'a.b': 'x'}, dict(teacher='a.b'), "plain words such as 'a', not 'a.b'"),
        ({}, {}, 'must name a teacher'),
    ],
)
def test_mistakes_are_told(networks, teachers, term, message):
    ours, a, _ = networks
    teachers = dict(teachers=dict.fromkeys(teachers, a))
    with pytest.raises(ValueError, match=message):
        DistillDetector(copy.deepcopy(ours), teachers, dict(loss=dict(HINT, **term)))


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (dict(teachers=dict(a='ema')), "a network that runs but a is 'ema'"),
        (dict(teachers=dict(a=dict(cache='x'))), 'a network that runs but a is'),
        (dict(teachers=dict(a='a.pth'), device='cpu'), 'entry of each.* device'),
        (dict(teachers=['a.pth']), 'a dict of name -> teacher but is a list'),
    ],
)
def test_what_cannot_be_one_of_several_is_told(networks, entry, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DistillDetector(
            copy.deepcopy(networks[0]), entry, dict(loss=dict(HINT, teacher='a'))
        )


def test_a_name_without_several_teachers_is_told(networks):
    ours, a, _ = networks
    with pytest.raises(ValueError, match=r"listens to teacher='a' but there is one"):
        DistillDetector(copy.deepcopy(ours), a, dict(loss=dict(HINT, teacher='a')))


def test_tools_for_one_teacher_say_so(tmp_path):
    cfg = Config(dict(model=toy_pair()))
    with pytest.raises(ValueError, match='one teacher is measured'):
        Setting(cfg, 'toy', None, 2, None, torch.device('cpu'))
    cfg.work_dir = str(tmp_path)
    with pytest.raises(ValueError, match='made of one teacher'):
        CacheBuilder(cfg, str(tmp_path / 'cache'))


def test_a_check_looks_at_each(networks):
    ours, a, b = (copy.deepcopy(network) for network in networks)
    a.dataset_meta = dict(classes=('x', 'y', 'z'))
    b.dataset_meta = dict(classes=('z', 'y', 'x'))
    b.data_preprocessor.mean[:] = 0
    model = DistillDetector(
        ours, dict(teachers=dict(a=a, b=b)), {**of('a'), **of('b', dict(loss_b=HINT))}
    )
    teacher = model.distiller.teacher
    teacher.members['b'].is_random = True
    findings = Findings()
    cfg = Config(dict(model=dict()))
    check_fit(model.distiller, cfg, ('x', 'y', 'z'), findings)
    assert not findings.errors
    random, order = findings.warnings
    assert random.startswith("the teacher 'b' has random weights")
    assert "the teacher 'b' was trained on the same in another order" in order
    told = inputs_told(teacher)
    assert told.startswith('a: the same for both; b: student mean')


def test_the_console_names_all(networks):
    ours, a, b = networks
    model = distilled(ours, dict(teachers=dict(a=a, b=b)), of('a'))
    told = model.distiller.summary()
    assert 'a: GFL (module' in told
    assert 'b: GFL (module' in told
    assert "teacher='a'" in told
    assert isinstance(model.distiller.teacher, TeacherGroup)
