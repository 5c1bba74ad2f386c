"""Pictures of student and teacher: the right ones, and a run that is left alone."""

import copy

import digits_detector
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.runner import Runner
from tiny_models import build, segmentation_batch, tiny_pspnet
from toy import (
    differences,
    distilled,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    training_state,
)

from mmkd.config import distill_config
from mmkd.demo.digits import make_digits
from mmkd.hooks import DistillVisualizationHook
from mmkd.side_by_side import drawn, feature_taps, features_figure, look

LOSSES = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_off=dict(type='mmkd.PKDLoss', at='backbone', loss_weight=0),
)
HOOK = dict(type='mmkd.DistillVisualizationHook', indices=[0, 2])


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('visualization') / 'digits'
    return make_digits(root, num_train=6, num_val=3, size=64)


def runner_of(digits, folder, **changes) -> Runner:
    changes = {'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1, **changes}
    return Runner.from_cfg(digits_detector.distilled(digits, folder, LOSSES, **changes))


def test_pictures_reach_the_backends_and_the_run_is_left_alone(digits, tmp_path):
    runs = {}
    for name, changes in (
        ('plain', {}),
        ('drawn', {'default_hooks.pictures': HOOK}),
    ):
        backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
        runs[name] = runner_of(
            digits,
            tmp_path / name,
            **changes,
            **{'visualizer.vis_backends': backends, 'visualizer.name': name},
        )
        runs[name].train()
    plain, seen = runs.values()
    assert recorded(seen) == recorded(plain)
    assert differences(training_state(plain), training_state(seen)) == []
    pictures = sorted((tmp_path / 'drawn').glob('*/vis_data/vis_image/*.png'))
    assert [p.stem for p in pictures] == [
        f'distill_{kind}_{step}'
        for kind in ('features', 'predictions')
        for step in (3, 6)
    ]
    # Three columns of squares for two pictures; five levels, picture and two networks.
    for path, columns, rows in ((pictures[2], 3, 2), (pictures[0], 3, 5)):
        height, width = pyplot.imread(path).shape[:2]
        assert width / height == pytest.approx(columns / rows, rel=0.2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / 'drawn').glob('*/vis_data/events*')
    known = EventAccumulator(str(events)).Reload().Tags()
    assert known['images'] == ['distill_predictions', 'distill_features']
    assert {'loss_hint', 'loss_ld', 'coco/bbox_mAP'} <= set(known['scalars'])


def test_weights_and_biases_get_the_same(digits, tmp_path, monkeypatch):
    """Without an account: a run that is kept on disk."""
    wandb = pytest.importorskip('wandb', reason='pip install wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    backends = [dict(type='WandbVisBackend', init_kwargs=dict(project='mmkd'))]
    changes = {
        'default_hooks.pictures': HOOK,
        'visualizer.vis_backends': backends,
        'visualizer.name': 'wandb',
    }
    runner_of(digits, tmp_path, **changes).train()
    wandb.finish()
    (folder,) = tmp_path.rglob('offline-run-*')
    pictures = [path.name.split('_')[1] for path in folder.rglob('*.png')]
    assert sorted(pictures) == ['features', 'features', 'predictions', 'predictions']
    (kept,) = folder.glob('*.wandb')
    for key in (b'loss_hint', b'loss_ld', b'coco/bbox_mAP', b'distill_predictions'):
        assert key in kept.read_bytes(), key


def test_each_of_several_teachers_has_a_column(digits, tmp_path):
    cfg = digits_detector.distilled(
        digits,
        tmp_path,
        LOSSES,
        **{'default_hooks.pictures': HOOK, 'visualizer.name': 'several'},
    )
    entry = cfg.model.pop('teacher')
    cfg.model.teacher = dict(teachers=dict(a=entry, b=copy.deepcopy(entry)))
    for name, loss in cfg.model.losses.items():
        loss.teacher = 'b' if name == 'loss_ld' else 'a'
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert feature_taps(runner.model.distiller) == {
        'loss_hint': {'student': 'neck', 'teacher a': 'neck'}
    }
    features, predictions = sorted(tmp_path.glob('*/vis_data/vis_image/*.png'))
    # Truth, student, two teachers; the second one shares no features.
    for path, columns, rows in ((predictions, 4, 2), (features, 3, 5)):
        height, width = pyplot.imread(path).shape[:2]
        assert width / height == pytest.approx(columns / rows, rel=0.2)


def test_a_network_sees_what_it_predicts(digits, tmp_path):
    runner = runner_of(digits, tmp_path)
    model = runner.model.train()
    item = runner.val_loop.dataloader.dataset[1]
    flags = [module.training for module in model.modules()]
    seen = look(model, item, ['neck', 'backbone.layer4', 'bbox_head'])
    assert [module.training for module in model.modules()] == flags
    data = dict(
        inputs=[item['inputs']], data_samples=[copy.deepcopy(item['data_samples'])]
    )
    with torch.no_grad():
        (expected,) = model.eval().test_step(data)
        batch = model.data_preprocessor(data)['inputs']
        features = model.extract_feat(batch)
    assert torch.equal(
        seen.sample.pred_instances.bboxes, expected.pred_instances.bboxes
    )
    assert len(seen.maps['neck']) == 5
    for found, map_ in zip(seen.maps['neck'], features):
        np.testing.assert_array_equal(found, map_[0].abs().mean(0).numpy())
    assert feature_taps(model.distiller) == dict(
        loss_hint=dict(student='neck', teacher='neck')
    )


def test_truth_and_predictions_are_drawn_where_they_are(digits, tmp_path):
    runner = runner_of(digits, tmp_path)
    item = runner.val_loop.dataloader.dataset[0]
    sample = look(runner.model, item).sample
    empty = copy.deepcopy(sample)
    empty.pred_instances = empty.pred_instances[:0]
    plain = drawn(runner.visualizer, item, empty)
    truth = drawn(runner.visualizer, item, sample, truth=True)
    assert plain.shape == truth.shape == (64, 64, 3)
    changed = (plain != truth).any(-1)
    boxes = torch.as_tensor(sample.gt_instances.bboxes)
    assert len(boxes)
    inside = np.zeros((64, 64), bool)
    for x1, y1, x2, y2 in boxes.round().int().tolist():  # and the label beside it
        inside[max(y1 - 16, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 30] = True
    assert changed.any()
    assert not (changed & ~inside).any()
    sure = copy.deepcopy(sample)
    sure.pred_instances.scores[:] = 0.5
    assert (drawn(runner.visualizer, item, sure, score=0.4) != plain).any()
    assert (drawn(runner.visualizer, item, sure, score=0.6) == plain).all()


def test_a_segmentor_is_drawn_with_a_picture_that_has_no_path():
    from mmengine.registry import VISUALIZERS

    loss = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='backbone'))
    teacher = build(tiny_pspnet(24).model, 'mmseg', seed=7)
    model = build(distill_config(tiny_pspnet(16), teacher, loss).model, 'mmseg')
    raw = segmentation_batch()
    item = dict(inputs=raw['inputs'][0], data_samples=raw['data_samples'][0])
    seen = look(model, item, ['backbone'])
    assert [m.shape for m in seen.maps['backbone']] == [
        (16, 16), (8, 8), (8, 8), (8, 8)
    ]  # fmt: skip
    visualizer = VISUALIZERS.build(
        dict(type='mmseg.SegLocalVisualizer', name='here', alpha=1.0)
    )
    palette = [[10 * i, 200 - 10 * i, 5] for i in range(19)]
    visualizer.dataset_meta = dict(classes=[str(i) for i in range(19)], palette=palette)
    found = drawn(visualizer, item, seen.sample)
    labels = seen.sample.pred_sem_seg.data[0].numpy()
    share = (found == np.array(palette)[labels]).all(-1).mean()
    assert share > 0.5  # names are written on it


def test_maps_of_another_number_of_levels_have_their_own_columns():
    picture = np.zeros((8, 8, 3), np.uint8)
    maps = [
        ('neck', dict(student=np.eye(4), teacher=np.eye(2))),
        ('b', dict(teacher=np.eye(2))),
    ]
    figure = features_figure(picture, maps)
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 0, 1]
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        'picture',
        'student',
        'teacher',
    ]


def test_a_teacher_without_a_network_has_no_column(digits, tmp_path):
    cfg = digits_detector.distilled(digits, tmp_path, LOSSES)
    cfg.model.teacher = 'self'
    cfg.model.losses = dict(
        loss_own=dict(
            type='mmkd.FeatureImitationLoss',
            at='backbone.layer3',
            teacher_at='backbone.layer4',
            resize='bilinear',
        )
    )
    cfg.default_hooks.pictures = HOOK
    cfg.visualizer.name = 'self'
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    Runner.from_cfg(cfg).train()
    (picture,) = tmp_path.glob('*/vis_data/vis_image/distill_predictions_3.png')
    height, width = pyplot.imread(picture).shape[:2]
    assert width / height == pytest.approx(2 / 2, rel=0.2)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(interval=0), 'interval must be an integer >= 1 but is 0'),
        (dict(indices=[]), 'indices must name items'),
        (dict(indices=[-1]), 'indices must name items'),
        (dict(score=1.5), r'score must be in \[0, 1\) but is 1.5'),
    ],
)
def test_rejects_numbers(options, match):
    with pytest.raises(ValueError, match=match):
        DistillVisualizationHook(**options)


def test_what_cannot_be_drawn_is_an_error_before_training(tmp_path):
    hook = {'default_hooks.pictures': dict(HOOK, indices=[8])}
    with pytest.raises(ValueError, match='indices must be below 8'):
        make_runner(distilled(), tmp_path / 'a', **hook).train()
    with pytest.raises(ValueError, match='the model is ToyNet; take it out'):
        make_runner(student(), tmp_path / 'b', **hook).train()
    none = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    with pytest.raises(ValueError, match='the run has none'):
        make_runner(distilled(), tmp_path / 'c', **hook, **none).train()


def test_a_picture_that_fails_ends_no_training(tmp_path):
    hook = {'default_hooks.pictures': HOOK, 'log_level': 'INFO'}
    runner = make_runner(distilled(), tmp_path, **hook)
    runner.train()  # its samples are numbers, which nobody can draw
    assert len(recorded(runner)) == 8
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'mmkd: no picture: ' in log
