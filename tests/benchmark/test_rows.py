"""What a step is made of in every row."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from bench_models import netaug, segmentor, setting, two_stages
from mmengine.registry import DefaultScope

from mmkd.benchmark.inputs import batches_of, random_boxes
from mmkd.benchmark.networks import Networks
from mmkd.benchmark.rows import (
    AUGMENTED,
    EXPORTED,
    FLOOR,
    FREE,
    MMDETECTION,
    MMKD,
    STUDENT,
    TRUNK,
    build_row,
    row_names,
)
from mmkd.benchmark.run import varied
from mmkd.config import model_scope, student_config
from mmkd.preflight.cost import no_rates

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


def steps(row, batch, count: int = 2) -> list[dict]:
    """What some steps log."""
    found = []
    with no_rates(row.trainee.optim_wrapper):
        for _ in range(count):
            torch.manual_seed(0)
            logs = row.run(copy.deepcopy(batch), 0)
            found.append({key: float(value) for key, value in logs.items()})
    return found


@pytest.fixture
def built(tmp_path):
    """Networks and a batch of a setting."""

    def build(one):
        stack.append(DefaultScope.overwrite_default_scope(model_scope(one.cfg)))
        stack[-1].__enter__()
        return Networks(one, tmp_path), batches_of(one)[0]

    stack: list = []
    yield build
    for context in stack:
        context.__exit__(None, None, None)


def counted(module, monkeypatch) -> list[tuple[bool, bool]]:
    """For every time a module runs: whether in inference mode, and in training."""
    original, seen = module.forward, []

    def forward(*args, **kwargs):
        seen.append((torch.is_inference_mode_enabled(), module.training))
        return original(*args, **kwargs)

    monkeypatch.setattr(module, 'forward', forward)
    return seen


@pytest.mark.parametrize(('name', 'heads'), [(FLOOR, 1), (TRUNK, 0)])
def test_the_floor_runs_the_stock_teacher(built, monkeypatch, name, heads):
    networks, batch = built(setting())
    row = build_row(name, networks)
    body = counted(networks.teacher.backbone, monkeypatch)
    head = counted(networks.teacher.bbox_head, monkeypatch)
    steps(row, batch, 3)
    assert body == [(True, False)] * 3
    assert head == [(True, False)] * 3 * heads


def test_the_students_step_does_not_see_the_floor(built):
    networks, batch = built(two_stages())
    alone = steps(build_row(STUDENT, networks), batch, 1)
    assert steps(build_row(FLOOR, networks), batch, 1) == alone


@pytest.mark.parametrize('make', [setting, two_stages, segmentor])
def test_a_replayed_teacher_teaches_the_same(built, monkeypatch, make):
    networks, batch = built(make())
    live = steps(build_row(MMKD, networks), batch)
    row = build_row(FREE, networks)
    assert steps(row, batch, 1)[0] == pytest.approx(live[0])  # records
    teacher = networks.distilled.model.distiller.teacher.model
    seen = counted(teacher.backbone, monkeypatch)
    scored = []
    if hasattr(teacher, 'roi_head'):
        scored = counted(teacher.roi_head.bbox_head, monkeypatch)
    assert steps(row, batch) == [pytest.approx(logs) for logs in live]
    assert not seen
    assert not scored
    assert len(steps(build_row(MMKD, networks), batch)) == len(seen) == 2


def test_all_rows_have_the_same_weights(built):
    networks, batch = built(setting())
    stock = networks.student.model.state_dict()
    ours, theirs = networks.distilled, build_row(MMDETECTION, networks).trainee
    for trainee in (ours, theirs):
        state = trainee.model.state_dict()
        assert list(state) == list(stock)
        assert all(torch.equal(state[key], stock[key]) for key in stock)
    teacher = networks.teacher.state_dict()
    its = theirs.model.teacher_model.state_dict()
    assert all(torch.equal(its[key], teacher[key]) for key in teacher)
    logs = steps(build_row(STUDENT, networks), batch, 1)[0]
    shared = logs.keys() - {'loss'}
    distilled = steps(build_row(MMKD, networks), batch, 1)[0]
    assert {k: distilled[k] for k in shared} == pytest.approx(
        {k: logs[k] for k in shared}
    )
    assert distilled['loss'] > logs['loss']


def test_mmdetection_distils_gfl_alone(built):
    networks, _ = built(two_stages())
    with pytest.raises(ValueError, match='for a GFL with a GFLHead, not FasterRCNN'):
        build_row(MMDETECTION, networks)


def test_rows_are_chosen_by_name():
    one = setting()
    assert row_names(None, one) == [STUDENT, FLOOR, TRUNK, MMKD, FREE]
    assert row_names(['floor*'], one) == [STUDENT, FLOOR, TRUNK]
    assert 'mmkd, with stream' in row_names(['*'], setting(device=torch.device('cuda')))
    assert 'mmkd, with stream' not in row_names(['*'], one)
    assert row_names(['* channels_last'], one) == [
        STUDENT,
        'mmkd, without channels_last',
    ]
    assert row_names(None, setting(cache='folder'))[-1] == 'mmkd, with cache'
    with pytest.raises(ValueError, match="--rows must match .* but is 'flor'"):
        row_names(['flor'], one)


def test_a_student_of_netaug_has_rows_for_it(built):
    """Alone and with a teacher, which teaches the student that NetAug trains."""
    taught = netaug(setting())
    assert row_names(None, taught)[-3:] == [FREE, AUGMENTED, EXPORTED]
    networks, batch = built(taught)
    stock, aug, exported, both = (
        steps(build_row(name, networks), batch)[1]
        for name in (STUDENT, AUGMENTED, EXPORTED, MMKD)
    )
    assert exported == stock
    assert stock.keys() < aug.keys() < both.keys()
    assert all(aug[f'aug_{name}'] > 0 for name in stock if name.startswith('loss_'))
    assert aug['loss_cls'] == stock['loss_cls'] == both['loss_cls']
    assert both['loss_hint'] > 0


def test_netaug_without_a_teacher_is_measured_against_the_student_alone(built):
    one = netaug(setting())
    cfg = student_config(one.cfg)
    cfg.model = one.cfg.model.student
    alone = dataclasses.replace(one, cfg=cfg)
    assert row_names(None, alone) == [STUDENT, AUGMENTED, EXPORTED]
    assert (alone.teacher, alone.record()['losses']) == (None, [])
    with pytest.raises(ValueError, match=r"--rows must match one of .* but is 'floor'"):
        row_names(['floor'], alone)
    networks, batch = built(alone)
    assert 'aug_loss_cls' in steps(build_row(AUGMENTED, networks), batch)[0]
    with pytest.raises(ValueError, match='--vary teacher needs a config with'):
        varied(alone, 'teacher=a.py,b.py')


def test_synthetic_batches_are_as_asked_for():
    (one,), (same,) = (batches_of(setting(objects=5)) for _ in range(2))
    assert [tuple(image.shape) for image in one['inputs']] == [(3, 64, 96)] * 2
    assert all(map(torch.equal, one['inputs'], same['inputs']))
    for sample in one['data_samples']:
        boxes = sample.gt_instances.bboxes
        assert len(boxes) == len(sample.gt_instances.labels) == 5
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([96, 64, 96, 64])).all()
        assert (sample.gt_instances.labels < 3).all()
    (batch,) = batches_of(segmentor(size=(48, 32)))
    labels = batch['data_samples'][0].gt_sem_seg.data
    assert labels.shape == (1, 48, 32)
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_boxes_have_mixed_sizes():
    boxes = random_boxes(np.random.default_rng(0), 200, 100, 100)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    assert sides.min() < 10
    assert sides.max() > 60
