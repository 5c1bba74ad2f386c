"""PKD, MGD, FGD, DKD and DIST on real detectors: values, weight 0, state."""

import copy

import pytest
import torch
from chen_ranks import CASCADE, FASTER, RCN, batch, distilled, two_stage
from term_ranks import prepared
from tiny_models import distilled_detector, losses_of, tiny_gfl, total

from mmkd.batch import Batch
from mmkd.config import method_losses
from mmkd.det.roi_views import RoIHeadView
from mmkd.losses import dist_loss, dkd_loss
from mmkd.taps import record

METHODS = ('pkd', 'mgd', 'fgd', 'dkd', 'dist')


def preset(*methods: str) -> dict:
    return {k: v for m in methods for k, v in method_losses(m, 'mmdet').items()}


def scored(model, raw: dict):
    """Losses of a step, the student's stages, and the teacher's scores of its RoIs."""
    model.train()
    torch.manual_seed(0)
    data = prepared(model, raw)
    with record(model, {RCN: RoIHeadView}) as ours:
        losses = model(**copy.deepcopy(data), mode='loss')
    teacher = model.distiller.teacher
    samples = Batch(data['inputs'], data['data_samples'])
    view = teacher.run(samples, {RCN: RoIHeadView})[RCN]
    with torch.no_grad():
        view.follow(ours[RCN])
    return losses, ours[RCN].stages, [stage.class_rows for stage in view.stages]


@pytest.mark.parametrize('name', [FASTER, CASCADE])
def test_the_students_rois_are_compared_with_the_teachers_scores_of_them(name):
    terms = preset('dkd', 'dist')
    model = distilled(two_stage(name, seed=1), two_stage(name, 24, seed=2), terms)
    losses, stages, theirs = scored(model, batch())
    dkd = dist = 0.0
    for ours, scores in zip(stages, theirs, strict=True):
        assert len(ours.labels) > 20
        assert (ours.labels == ours.num_classes).any()  # the background is a class
        assert (ours.labels < ours.num_classes).any()
        dkd += ours.weight * dkd_loss(
            ours.class_rows, scores, ours.labels, temperature=1.0, beta=0.25
        )
        dist += ours.weight * dist_loss(ours.class_rows, scores)
    torch.testing.assert_close(losses['loss_dkd'], dkd)
    torch.testing.assert_close(losses['loss_dist'], dist)


def test_classes_of_a_teacher_of_others_are_mapped():
    chosen = [4, 0, 2]
    terms = preset('dkd')
    terms['loss_dkd']['teacher_classes'] = chosen
    student, teacher = two_stage(FASTER, seed=1), two_stage(FASTER, 24, 2, classes=5)
    losses, (ours,), (scores,) = scored(distilled(student, teacher, terms), batch())
    rest = scores[:, [1, 3, 5]].logsumexp(1, keepdim=True)
    mapped = torch.cat([scores[:, chosen], rest], 1)
    expected = dkd_loss(ours.class_rows, mapped, ours.labels, 1.0, 1.0, 0.25)
    torch.testing.assert_close(losses['loss_dkd'], expected)


@pytest.mark.parametrize('weight', [0, None])
def test_the_stock_part_is_stock_bit_for_bit(weight):
    """Random masks included: they draw from nothing that training draws from."""
    student, teacher = two_stage(FASTER, seed=1), two_stage(FASTER, 24, seed=2)
    terms = preset(*METHODS)
    if weight is not None:
        for term in terms.values():
            term['loss_weight'] = weight
    model = distilled(student, teacher, terms)
    for _ in range(2):  # and the generators stand where they stood
        stock, ours = losses_of(student, batch()), losses_of(model, batch())
        for name, value in stock.items():
            values = zip(value, ours[name]) if isinstance(value, list) else ()
            assert all(torch.equal(x, y) for x, y in values)
            assert isinstance(value, list) or torch.equal(value, ours[name])
        assert all((ours[name] != 0) == (weight is None) for name in terms)
    if weight is None:
        total(ours).backward()
        trained = dict(model.distiller.losses.named_parameters())
        assert {name.partition('.')[0] for name in trained} == {
            'loss_pkd', 'loss_mgd', 'loss_fgd'
        }  # fmt: skip
        assert all(p.grad is not None for p in trained.values())
        assert not any('distiller' in key for key in model.state_dict())


def test_a_mask_goes_on_where_a_checkpoint_was():
    def fresh():
        student, teacher = two_stage(FASTER, seed=1), two_stage(FASTER, 24, seed=2)
        return distilled(student, teacher, preset('mgd'))

    model, other = fresh(), fresh()
    losses_of(model, batch(), seed=0)
    other.distiller.load_state_dict(model.distiller.state_dict())
    twice = [losses_of(m, batch(), seed=3)['loss_mgd'] for m in (model, other)]
    assert torch.equal(*twice)
    assert losses_of(model, batch(), seed=3)['loss_mgd'] != twice[0]


@pytest.mark.parametrize('method', ['dkd', 'dist'])
def test_a_dense_head_is_refused_by_name(method):
    term = dict(next(iter(preset(method).values())), at='bbox_head')
    with pytest.raises(ValueError, match='classes of a softmax but GFLHead .* sigmoid'):
        distilled_detector(tiny_gfl(16), tiny_gfl(24), {'loss_term': term})
