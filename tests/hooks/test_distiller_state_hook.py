"""A run that is broken off and resumed ends where it would have ended."""

import pytest
import torch
from toy import (
    CWD,
    HINT,
    differences,
    distilled,
    make_runner,
    recorded,
    train,
    training_state,
)

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)


def same_teacher_width():
    """Channel-wise divergence needs equal widths: both heads have ten classes."""
    return distilled(BOTH)


def resumed(model, folder, checkpoint=None, **changes):
    runner = make_runner(
        model, folder, resume=True, load_from=checkpoint and str(checkpoint), **changes
    )
    runner.train()
    return runner


def assert_same_end(straight, again):
    assert differences(training_state(straight), training_state(again)) == []
    steps = recorded(again)
    assert steps == recorded(straight)[-len(steps) :]
    assert torch.equal(torch.get_rng_state(), again.end_rng)


EPOCHS = {
    'plain': {},
    'validated, best kept': {
        'default_hooks.checkpoint.save_best': 'rounds',
        'default_hooks.checkpoint.rule': 'greater',
    },
    'clipped': {'optim_wrapper.clip_grad': dict(max_norm=1)},
    'two workers': {'train_dataloader.num_workers': 2},
    'two workers that stay': {
        'train_dataloader.num_workers': 2,
        'train_dataloader.persistent_workers': True,
    },
}


@pytest.mark.parametrize('case', EPOCHS)
def test_epochs_resume_exactly(case, tmp_path):
    changes = {'train_cfg.max_epochs': 3, **EPOCHS[case]}
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    again = resumed(
        distilled(BOTH), tmp_path / 'b', tmp_path / 'a/epoch_1.pth', **changes
    )
    assert len(recorded(again)) == 8
    assert recorded(again) == recorded(straight)[4:]
    assert differences(training_state(straight), training_state(again)) == []
