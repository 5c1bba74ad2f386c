"""tools/test.py and inference on a distillation config: the student alone."""

import json
import shutil

import pytest
import torch
from mmengine.registry import DefaultScope
from tool_runs import call_tool, distilled_model

from mmkd.config import student_config


@pytest.fixture
def no_teacher(place, tmp_path):
    """The distillation config on a machine without the teacher."""
    for name in ('student', 'hint'):
        text = (place / f'{name}.py').read_text()
        (tmp_path / f'{name}.py').write_text(text.replace(f'{place}/teacher', 'gone'))
    assert 'gone.pth' in (tmp_path / 'hint.py').read_text()
    return tmp_path / 'hint.py'


def validated(folder) -> dict:
    """Metrics of the last validation in training."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    metrics = json.loads(path.read_text().splitlines()[-1])
    return {key: metrics[key] for key in metrics if '/' in key or key == 'mIoU'}


def evaluated(folder) -> dict:
    (path,) = folder.glob('*/*.json')
    metrics = json.loads(path.read_text())
    return {key: metrics[key] for key in metrics if '/' in key or key == 'mIoU'}


def test_the_metrics_are_those_of_training(hint_run, no_teacher, tmp_path):
    done = call_tool(
        'test', no_teacher, hint_run / 'epoch_2.pth', '--work-dir', tmp_path / 'out'
    )
    assert done.code == 0, done.err
    metrics = evaluated(tmp_path / 'out')
    assert metrics == validated(hint_run)
    assert metrics['coco/AR@100'] > 0
    assert 'coco/bbox_mAP' in metrics


def test_options_for_the_student_reach_it(hint_run, no_teacher, tmp_path):
    done = call_tool(
        'test', no_teacher, hint_run / 'epoch_2.pth', '--work-dir', tmp_path / 'out',
        '--cfg-options', 'model.test_cfg.max_per_img=1',
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (
        evaluated(tmp_path / 'out')['coco/AR@100'] < validated(hint_run)['coco/AR@100']
    )


def test_detectors_have_test_time_augmentation(hint_run, no_teacher, tmp_path):
    done = call_tool(
        'test', no_teacher, hint_run / 'epoch_2.pth', '--tta',
        '--work-dir', tmp_path / 'out',
    )  # fmt: skip
    assert done.code == 0, done.err
    metrics, plain = evaluated(tmp_path / 'out'), validated(hint_run)
    assert metrics.keys() == plain.keys()
    assert metrics['coco/AR@100'] > 0
    assert metrics != plain


def test_segmentors(seg_run, place, tmp_path):
    config = seg_run / 'seg_student.py'  # distilled, as the Runner wrote it
    assert 'mmkd.DistillSegmentor' in config.read_text()
    shutil.copy(config, tmp_path / 'gone.py')
    done = call_tool(
        'test', tmp_path / 'gone.py', seg_run / 'iter_4.pth', '--work-dir',
        tmp_path / 'plain', '--cfg-options', 'model.teacher=gone.pth',
    )  # fmt: skip
    assert done.code == 0, done.err
    assert evaluated(tmp_path / 'plain') == validated(seg_run)
    assert evaluated(tmp_path / 'plain')['mIoU'] > 0
    done = call_tool(
        'test', config, seg_run / 'iter_4.pth', '--tta', '--work-dir', tmp_path / 'tta'
    )
    assert done.code == 0, done.err
    assert (
        0 < evaluated(tmp_path / 'tta')['mIoU'] != evaluated(tmp_path / 'plain')['mIoU']
    )


def test_init_detector_takes_the_students_config(hint_run, no_teacher, place):
    from mmdet.apis import inference_detector, init_detector

    weights = hint_run / 'epoch_2.pth'
    cfg = student_config(no_teacher)
    model = init_detector(cfg, str(weights), device='cpu')
    assert not hasattr(model, 'distiller')
    picture = str(place / 'big_disk' / 'digits' / 'val' / '000001.png')
    found = inference_detector(model, picture).pred_instances

    trained = distilled_model(place / 'hint.py', weights, 'mmdet')
    trained.cfg = cfg
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = inference_detector(trained, picture).pred_instances
    assert len(found) == 100
    assert torch.equal(found.bboxes, expected.bboxes)
    assert torch.equal(found.scores, expected.scores)
