"""What starts from the teacher, in real runs: new, from a checkpoint, resumed."""

import copy

import digits_detector
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from toy import (
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
)

from mmkd.demo.digits import make_digits

HINT = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))
PATHS = ['neck.fpn_convs', 'bbox_head.reg_convs']


@HOOKS.register_module(force=True)
class Start(Hook):
    """The student's weights before the first step."""

    def before_train(self, runner):
        self.state = copy.deepcopy(runner.model.state_dict())


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('inherited') / 'digits'
    return make_digits(root, num_train=12, num_val=2, size=64)


def run(digits, folder, resume=False, load_from=None, epochs=1):
    changes = {'train_cfg.max_epochs': epochs, 'default_hooks.start.type': 'Start'}
    cfg = digits_detector.distilled(digits, folder, HINT, **changes)
    teacher = cfg.model.teacher.config.model
    teacher.neck.out_channels = teacher.bbox_head.in_channels = 16
    cfg.model.init_from_teacher = PATHS
    cfg.resume, cfg.load_from = resume, load_from
    runner = Runner.from_cfg(cfg)
    runner.train()
    start = next(h for h in runner.hooks if isinstance(h, Start)).state
    return runner, start


def inherited(state: dict) -> dict:
    prefixes = tuple(f'{path}.' for path in PATHS)
    return {k: v for k, v in state.items() if k.startswith(prefixes)}


def assert_equal(found: dict, expected: dict) -> None:
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_new_run_starts_with_them_and_a_checkpoint_wins(digits, tmp_path):
    runner, start = run(digits, tmp_path / 'new')
    theirs = runner.model.distiller.teacher.model.state_dict()
    assert len(inherited(start)) > 10
    assert_equal(inherited(start), theirs)
    assert len(recorded(runner)) == 6
    trained = runner.model.state_dict()
    moved = [k for k, v in inherited(start).items() if not torch.equal(v, trained[k])]
    assert len(moved) > 10  # it is the student's own from there on
    assert_equal(inherited(theirs), inherited(start))

    path = tmp_path / 'new' / 'epoch_1.pth'
    saved = torch.load(path, weights_only=False)['state_dict']
    _, start = run(digits, tmp_path / 'from_a_checkpoint', load_from=str(path))
    assert_equal(saved, start)

    _, start = run(digits, tmp_path / 'new', resume=True, epochs=2)
    assert_equal(saved, start)
