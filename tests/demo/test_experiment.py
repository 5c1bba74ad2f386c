"""The demo from end to end, on a few pictures: train, keep, skip, report, draw."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('skimage')
pytest.importorskip('sklearn')
from matplotlib import pyplot
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from mmkd.demo.experiment import Demo
from mmkd.demo.progress import StageDisplay
from mmkd.demo.report import rich_table, write_report
from mmkd.demo.runs import ALONE, DISTILLED, TEACHER
from mmkd.demo.task import DETECTION

SHORT = {
    'train_cfg.max_epochs': 12,
    'train_cfg.val_interval': 6,
    'param_scheduler.0.end': 4,
    'param_scheduler.1.end': 24,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.interval': 12,
}


def make_demo(folder: Path) -> Demo:
    return Demo(folder / 'runs', DETECTION, SHORT, num_train=12, num_val=6)


def execute(folder: Path) -> tuple[Demo, list, str]:
    demo = make_demo(folder)
    console = Console(file=io.StringIO(), width=120)
    with StageDisplay(console) as display:
        demo.make_data(display)
        results = demo.execute([3], display)
    return demo, results, console.file.getvalue()


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> tuple[Path, Demo, list, str]:
    folder = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(folder / 'data'))
        return folder, *execute(folder)


def test_three_runs_of_the_same_length(finished):
    _, demo, results, _ = finished
    assert [r.name for r in results] == [TEACHER, ALONE, DISTILLED]
    assert [r.seed for r in results] == [0, 3, 3]
    assert {r.iterations for r in results} == {36}
    assert all([i for i, _ in r.curve] == [18, 36] for r in results)
    teacher, alone, distilled = results
    assert alone.parameters == distilled.parameters < teacher.parameters / 10
    assert alone.gflops == distilled.gflops < teacher.gflops


def test_ap_is_that_of_pycocotools(finished):
    folder, demo, results, _ = finished
    coco = COCO(str(folder / 'data' / 'digits' / 'annotations' / 'val.json'))
    for run, result in zip(demo.runs([3]), results, strict=True):
        detections = json.loads(run.predictions.read_text())
        assert {d['image_id'] for d in detections} <= set(coco.imgs)
        assert len(detections) > 3
        evaluation = COCOeval(coco, coco.loadRes(str(run.predictions)), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert result.metrics['AP'] == pytest.approx(evaluation.stats[0], abs=6e-4)
        assert result.metrics['AP50'] == pytest.approx(evaluation.stats[1], abs=6e-4)


def test_students_differ_in_training_and_not_in_kind(finished):
    _, demo, _, _ = finished
    alone, distilled = (
        torch.load(run.checkpoint, map_location='cpu', weights_only=False)['state_dict']
        for run in demo.runs([3])[1:]
    )
    assert list(alone) == list(distilled)
    assert any(not torch.equal(alone[key], distilled[key]) for key in alone)


def test_progress_names_every_stage(finished):
    *_, output = finished
    for title in ('data set', TEACHER, ALONE, DISTILLED):
        assert f'\n{title} ' in f'\n{output}'


def test_finished_runs_are_not_repeated(finished, monkeypatch):
    folder, demo, results, _ = finished
    monkeypatch.setenv('MMKD_DATA', str(folder / 'data'))
    before = {
        run.checkpoint: run.checkpoint.stat().st_mtime_ns for run in demo.runs([3])
    }
    _, again, output = execute(folder)
    assert again == results
    assert output.count('done before') == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_changed_teacher_asks_for_a_new_distilled_run(finished, monkeypatch):
    folder, demo, *_ = finished
    monkeypatch.setenv('MMKD_DATA', str(folder / 'data'))
    changed = Demo(
        folder / 'runs',
        DETECTION,
        {**SHORT, 'model.bbox_head.loss_dfl.loss_weight': 0.5},
        12,
        6,
    )
    assert changed.teacher.result is None
    assert demo.teacher.result is not None


def test_lost_checkpoint_is_trained_again(finished, monkeypatch):
    folder, demo, *_ = finished
    monkeypatch.setenv('MMKD_DATA', str(folder / 'data'))
    hidden = demo.teacher.checkpoint.rename(demo.work_dir / 'hidden.pth')
    assert demo.teacher.result is None
    hidden.rename(demo.teacher.checkpoint)
    assert demo.teacher.result is not None


def test_picture_shows_four_columns(finished, monkeypatch):
    folder, demo, *_ = finished
    monkeypatch.setenv('MMKD_DATA', str(folder / 'data'))
    path = demo.draw(3)
    picture = pyplot.imread(path)
    assert path == demo.work_dir / 'demo.png'
    assert picture.shape[0] > 1000
    assert picture.shape[1] > 1500
    # Nothing is cut off at the rim, and the four columns are filled.
    rim = 2
    for strip in (picture[:rim], picture[-rim:], picture[:, :rim], picture[:, -rim:]):
        assert (strip[..., :3] == 1).all()
    middle = picture[picture.shape[0] // 2, : int(0.6 * picture.shape[1]), :3]
    assert (middle == 1).all(axis=-1).mean() < 0.1


def test_table_and_files(finished, tmp_path):
    *_, results, _ = finished
    console = Console(file=io.StringIO(), width=120)
    console.print(rich_table(results, DETECTION))
    table = console.file.getvalue()
    for result in results:
        assert f'{result.parameters:,}' in table
        assert f'{result.score:.3f}' in table
    write_report(results, DETECTION, tmp_path / 'results')
    lines = (tmp_path / 'results' / 'demo.jsonl').read_text().splitlines()
    assert [json.loads(line)['name'] for line in lines] == [TEACHER, ALONE, DISTILLED]
    found = [json.loads(line)['metrics'] for line in lines]
    assert found == [r.metrics for r in results]
    text = (tmp_path / 'results' / 'demo.md').read_text()
    assert f'{results[2].score - results[1].score:+.3f}' in text
