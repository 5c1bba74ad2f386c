"""MMEngine's FlexibleRunner trains, saves and resumes as its Runner does."""

from pathlib import Path

from mmengine.runner import FlexibleRunner
from toy import (
    CWD,
    HINT,
    by_iteration,
    config,
    differences,
    distilled,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
    training_state,
)

from mmkd.cli import build_runner

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)


def flexibly(folder: Path, **changes) -> FlexibleRunner:
    cfg = config(distilled(BOTH), folder, **changes)
    cfg.runner_type = 'FlexibleRunner'
    cfg.env_cfg = dict(dist_cfg=dict(backend='gloo'))
    runner = build_runner(cfg)
    assert isinstance(runner, FlexibleRunner)
    runner.train()
    return runner


def assert_same_end(one, other) -> None:
    steps = len(recorded(other))
    assert recorded(one)[-steps:] == recorded(other)
    assert differences(training_state(one), training_state(other)) == []


def test_epochs_are_those_of_the_runner_bit_for_bit(tmp_path):
    changes = {'train_cfg.max_epochs': 3}
    stock = train(distilled(BOTH), tmp_path / 'stock', **changes)
    straight = flexibly(tmp_path / 'a', **changes)
    assert len(recorded(straight)) == 12
    assert_same_end(stock, straight)
    first = str(tmp_path / 'a' / 'epoch_1.pth')
    again = flexibly(tmp_path / 'b', resume=True, load_from=first, **changes)
    assert len(recorded(again)) == 8
    assert_same_end(stock, again)
    ours, theirs = (
        sorted(path.name for path in (tmp_path / name).glob('*.pth'))
        for name in ('a', 'stock')
    )
    assert ours == theirs
    assert not list((tmp_path / 'a').glob('.*'))


def test_iterations_resume_exactly(tmp_path):
    """It builds the data before the model, so that a Runner draws other weights."""
    straight = flexibly(tmp_path / 'a', **by_iteration())
    changes = by_iteration(resume=True, load_from=str(tmp_path / 'a' / 'iter_3.pth'))
    again = flexibly(tmp_path / 'b', **changes)
    assert len(recorded(again)) == 5
    assert_same_end(straight, again)
