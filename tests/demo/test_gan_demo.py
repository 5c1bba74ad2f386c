"""The demo of GANs from end to end, on a few pictures."""

import io

import pytest

pytest.importorskip('skimage')
pytest.importorskip('torchmetrics')
from matplotlib import pyplot
from rich.console import Console

from mmkd.demo.experiment import Demo
from mmkd.demo.progress import StageDisplay
from mmkd.demo.report import report_text
from mmkd.demo.runs import ALONE, DISTILLED, TEACHER
from mmkd.demo.task import GAN

SHORT = {
    'train_cfg.max_iters': 4,
    'train_cfg.val_interval': 2,
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.interval': 4,
    'param_scheduler.0.begin': 2,
    'param_scheduler.0.end': 4,
}


def test_the_demo_of_gans(tmp_path, monkeypatch):
    monkeypatch.setenv('MMKD_DATA', str(tmp_path / 'data'))
    demo = Demo(tmp_path / 'runs', GAN, SHORT, num_train=6, num_val=3)
    console = Console(file=io.StringIO(), width=120)
    with StageDisplay(console) as display:
        demo.make_data(display)
        results = demo.execute([0], display)
        again = demo.execute([0], display)
    assert again == results
    assert [r.name for r in results] == [TEACHER, ALONE, DISTILLED]
    assert all([i for i, _ in r.curve] == [2, 4] for r in results)
    assert all(list(r.metrics) == ['SSIM', 'PSNR'] for r in results)
    assert all(r.metrics['PSNR'] > 3 for r in results)
    teacher, alone, distilled = results
    assert alone.parameters == distilled.parameters < teacher.parameters / 6
    assert alone.gflops == distilled.gflops < teacher.gflops / 6
    assert alone.metrics != distilled.metrics
    path = demo.draw(0)
    assert path.name == 'demo_gan.png'
    assert pyplot.imread(path).shape[1] > 900
    text = report_text(results, GAN)
    assert 'SSIM and PSNR (in decibels)' in text
    assert f'{results[2].score - results[1].score:+.3f}' in text
