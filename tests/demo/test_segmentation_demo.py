"""The segmentation demo from end to end, on a few pictures."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('mmseg')
pytest.importorskip('skimage')
from matplotlib import pyplot
from rich.console import Console

from mmkd.demo import runs
from mmkd.demo.experiment import Demo
from mmkd.demo.progress import StageDisplay
from mmkd.demo.report import report_text, rich_table
from mmkd.demo.runs import ALONE, DISTILLED, TEACHER
from mmkd.demo.task import SEGMENTATION

SHORT = {
    'train_cfg.max_iters': 6,
    'train_cfg.val_interval': 3,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.interval': 6,
}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(folder / 'data'))
        demo = Demo(folder / 'runs', SEGMENTATION, SHORT, num_train=8, num_val=5)
        console = Console(file=io.StringIO(), width=120)
        with StageDisplay(console) as display:
            demo.make_data(display)
            results = demo.execute([0], display)
            again = demo.execute([0], display)
        assert again == results
        yield demo, results, console.file.getvalue(), demo.draw(0)


def test_three_runs_of_the_same_length(finished):
    _, results, output, _ = finished
    assert [r.name for r in results] == [TEACHER, ALONE, DISTILLED]
    assert {r.iterations for r in results} == {6}
    assert all([i for i, _ in r.curve] == [3, 6] for r in results)
    assert all(list(r.metrics) == ['mIoU', 'mAcc'] for r in results)
    assert all(r.score == r.curve[-1][1] > 0 for r in results)
    teacher, alone, distilled = results
    assert alone.parameters == distilled.parameters < teacher.parameters / 5
    assert alone.gflops == distilled.gflops < teacher.gflops
    assert 'mIoU' in output
    assert output.count('done before') == 3


@pytest.mark.parametrize('inside', [True, False])
def test_evaluation_is_no_part_of_the_training_time(inside, monkeypatch):
    """An iteration-based loop evaluates inside of its only epoch, others after it."""
    now = [0.0]
    monkeypatch.setattr(runs.time, 'perf_counter', lambda: now[0])
    runner = SimpleNamespace(iter=3, max_iters=6)
    hook = runs._RecorderHook(lambda *_: None, SEGMENTATION.metrics)
    hook.before_train_epoch(runner)
    now[0] = 5.0
    if not inside:
        hook.after_train_epoch(runner)
    hook.before_val_epoch(runner)
    now[0] = 100.0
    hook.after_val_epoch(runner, dict(mIoU=12.5))
    now[0] = 103.0
    if inside:
        hook.after_train_epoch(runner)
    assert hook.seconds == (8.0 if inside else 5.0)
    assert hook.curve == [(3, 12.5)]
    assert hook.newest == dict(mIoU=12.5, mAcc=0.0)


def test_the_picture_shows_three_models(finished):
    *_, path = finished
    picture = pyplot.imread(path)
    assert path.name == 'demo_seg.png'
    assert picture.shape[1] > 1500
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 100


def test_the_table(finished):
    _, results, *_ = finished
    console = Console(file=io.StringIO(), width=120)
    console.print(rich_table(results, SEGMENTATION))
    for result in results:
        assert f'{result.score:.2f}' in console.file.getvalue()
    text = report_text(results, SEGMENTATION)
    assert 'mIoU (percent, background included) is on the validation pictures' in text
    assert f'{results[2].score - results[1].score:+.2f}' in text
