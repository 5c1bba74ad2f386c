"""A run that is killed again and again; started by ``test_killed_run.py``.

One process imports everything and forks the runs, which spares twenty times that. It
kills them with SIGKILL: after some iterations and a random time, or as soon as it sees
that a checkpoint is being written. What it found it writes as JSON.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy import CWD, HINT, by_iteration, distilled, load, make_runner, quicken

from mmkd.fileio import PART_SUFFIX

KILLS = 20
HOLISTIC = dict(
    type='mmkd.HolisticLoss',
    at='head',
    critic=dict(type='mmkd.SelfAttentionCritic', channels=2),
)
TERMS = dict(loss_hint=HINT, loss_cwd=CWD, loss_holistic=HOLISTIC)
#: A run that saves after every iteration, with everything that has a state.
CHANGES = by_iteration(
    **{
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'default_hooks.ballast': dict(type='Ballast'),
        'default_hooks.logger': None,
        'default_hooks.schedule': dict(
            type='mmkd.DistillScheduleHook',
            losses=dict(loss_cwd=dict(by_epoch=False, begin=5, ramp=40)),
        ),
    }
)


@HOOKS.register_module(force=True)
class Ballast(Hook):
    """Makes a checkpoint large enough that writing it takes a while."""

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['ballast'] = torch.rand(1 << 20)


@HOOKS.register_module(force=True)
class Tick(Hook):
    """Tells the parent that an iteration begins."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        os.write(self.pipe, b'.')


def run(folder: Path, iterations: int | None, **changes):
    """A part of one long run, whose critic's rate follows from its whole length."""
    changes = {**CHANGES, **changes}
    changes['train_cfg'] = dict(
        by_epoch=False, max_iters=10**4, val_interval=10**6, _delete_=True
    )
    if iterations is not None:
        changes['default_hooks.stop'] = dict(type='StopAfter', iteration=iterations)
    runner = make_runner(distilled(TERMS), folder, **changes)
    with suppress(KeyboardInterrupt):
        runner.train()
    return runner


def fork(folder: Path) -> tuple[int, int]:
    """Start or resume the run; its process, and where its ticks can be read."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        hook = {'default_hooks.tick': dict(type='Tick', pipe=write)}
        run(folder, None, resume=True, **hook)
    finally:
        os._exit(1)


def wait_for_ticks(read: int, count: int) -> None:
    while count:
        ready, _, _ = select.select([read], [], [], 120)
        got = os.read(read, count) if ready else b''
        assert got, 'the run ended by itself'
        count -= len(got)


def kill(folder: Path, draw: random.Random, in_a_write: bool) -> None:
    """One life of the run."""
    child, read = fork(folder)
    try:
        wait_for_ticks(read, draw.randint(1, 3))
        limit = time.monotonic() + draw.random() * 0.1
        while in_a_write or time.monotonic() < limit:
            if in_a_write and any(folder.glob(f'.*.pth{PART_SUFFIX}')):
                time.sleep(draw.random() * 0.01)
                break
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read)
    assert os.WTERMSIG(status) == signal.SIGKILL


def found(folder: Path) -> dict:
    """What is in the folder; loads every file that has a final name."""
    pointer = folder / 'last_checkpoint'
    named = pointer.read_text() if pointer.exists() else None
    done = {}
    for path in sorted(folder.glob('*.pth')):
        checkpoint = load(path)
        assert checkpoint['ballast'].isfinite().all()
        done[str(path)] = checkpoint['meta']['iter']
    parts = [path.name for path in folder.glob(f'.*{PART_SUFFIX}')]
    return dict(last=named, iterations=done, parts=parts)


def main(folder: Path) -> None:
    quicken()
    torch.set_num_threads(1)
    run(folder / 'first', 1)  # what is imported and set up on first use
    draw = random.Random(20)
    lives = []
    for number in range(KILLS):
        kill(folder / 'run', draw, in_a_write=number % 2 == 1)
        lives.append(found(folder / 'run'))
    (folder / 'lives.json').write_text(json.dumps(lives))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
