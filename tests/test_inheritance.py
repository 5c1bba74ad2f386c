"""Students that start with weights of their teacher."""

import copy

import pytest
import torch
from tiny_models import build, distilled_detector, tiny_gfl

from mmkd.registry import MODELS

HINT = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))


def teacher_config():
    """A wider backbone behind the same neck and head, with BatchNorm in the neck."""
    return with_norm(tiny_gfl(16, backbone=dict(base_channels=16)), [16, 32, 64, 128])


def with_norm(cfg, in_channels):
    cfg.model.neck.update(norm_cfg=dict(type='BN'), in_channels=in_channels)
    return cfg


def student_config():
    return with_norm(tiny_gfl(16), list(tiny_gfl(16).model.neck.in_channels))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A teacher that no seed of a student equals."""
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    model = build(teacher_config().model, 'mmdet', seed=9)
    generator = torch.Generator().manual_seed(9)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator) / 100)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def distilled(checkpoint, paths, losses=HINT, student=None):
    teacher = dict(config=teacher_config(), checkpoint=str(checkpoint))
    cfg = dict(
        type='mmkd.DistillDetector',
        student=copy.deepcopy((student or student_config()).model),
        teacher=teacher,
        losses=copy.deepcopy(losses),
        init_from_teacher=paths,
    )
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def starts(model, checkpoint) -> set[str]:
    """Weights and buffers that are the teacher's."""
    theirs = torch.load(checkpoint, weights_only=False)['state_dict']
    return {
        name
        for name, value in model.state_dict().items()
        if name in theirs
        and value.shape == theirs[name].shape
        and value.is_floating_point()
        and torch.equal(value, theirs[name])
    }


def below(model, *paths) -> set[str]:
    return {
        name
        for name, value in model.state_dict().items()
        if name.startswith(tuple(f'{path}.' for path in paths))
        and value.is_floating_point()
    }


PATHS = ['neck.fpn_convs', 'bbox_head']


def test_parts_are_the_teachers_after_init_weights_and_the_rest_is_stock(checkpoint):
    torch.manual_seed(3)
    model = distilled(checkpoint, PATHS)
    torch.manual_seed(4)
    model.init_weights()
    inherited = below(model, *PATHS)
    assert starts(model, checkpoint) == inherited
    # Norms of the neck that the teacher's economy has folded away are among them.
    assert any('running_var' in name for name in inherited)
    assert model.distiller.teacher._economized.folded > 0
    torch.manual_seed(3)
    stock = distilled(checkpoint, ())
    torch.manual_seed(4)
    stock.init_weights()
    for name, value in stock.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) == (name not in inherited)


def test_nothing_is_shared_and_trained_weights_stay(checkpoint):
    model = distilled(checkpoint, ['bbox_head'])
    model.init_weights()
    with torch.no_grad():
        model.bbox_head.gfl_cls.weight.add_(1)
    moved = model.bbox_head.gfl_cls.weight.clone()
    model.init_weights()  # mmengine warns and does nothing
    assert torch.equal(model.bbox_head.gfl_cls.weight, moved)
    other = distilled(checkpoint, ['bbox_head'])
    other.init_weights()
    assert starts(other, checkpoint) == below(other, 'bbox_head')


def test_a_copy_that_is_initialised_inherits_too(checkpoint):
    model = copy.deepcopy(distilled(checkpoint, ['bbox_head']))
    model.init_weights()
    assert starts(model, checkpoint) == below(model, 'bbox_head')


def test_a_student_that_is_given_as_a_network_inherits_too(checkpoint):
    """Also one that was initialised already."""
    student = build(student_config().model, 'mmdet', seed=1)
    teacher = dict(config=teacher_config(), checkpoint=str(checkpoint))
    cfg = dict(type='mmkd.DistillDetector', student=student, teacher=teacher)
    model = MODELS.build(dict(cfg, losses=HINT, init_from_teacher=['bbox_head']))
    model.init_weights()
    assert starts(model, checkpoint) == below(model, 'bbox_head')


def test_paths_of_both_sides(checkpoint):
    paths = {'bbox_head.cls_convs': 'bbox_head.reg_convs'}
    model = distilled(checkpoint, paths)
    model.init_weights()
    theirs = torch.load(checkpoint, weights_only=False)['state_dict']
    for name, value in model.bbox_head.cls_convs.state_dict().items():
        assert torch.equal(value, theirs[f'bbox_head.reg_convs.{name}'])


def test_other_widths_are_an_error_when_built(checkpoint):
    message = (
        r"init_from_teacher: 'neck' must have the same weights .*"
        r'lateral_convs\.0\.conv\.weight is \(16, \d+, 1, 1\) in the student and '
        r"\(16, \d+, 1, 1\) in the teacher.*'neck\.fpn_convs'"
    )
    with pytest.raises(ValueError, match=message):
        distilled(checkpoint, ['neck'])


def test_wrong_paths_are_errors_when_built(checkpoint):
    with pytest.raises(ValueError, match="'nekc' is not .*; did you mean 'neck'"):
        distilled(checkpoint, ['nekc'])
    for wrong in ('neck', [3], 7):
        with pytest.raises(TypeError, match='init_from_teacher must be a list of sub'):
            distilled(checkpoint, wrong)


def test_without_it_nothing_starts_from_the_teacher():
    model = distilled_detector(student_config(), teacher_config(), HINT)
    assert not model.distiller.inheritance
