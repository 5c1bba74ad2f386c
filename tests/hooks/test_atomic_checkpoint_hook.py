"""The stock hook's files, written such that nothing is lost when a run dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from toy import (
    differences,
    distilled,
    load,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.fileio import PART_SUFFIX, replacing

ROOT = Path(__file__).parents[2]
BEST = {
    'default_hooks.checkpoint.save_best': 'rounds',
    'default_hooks.checkpoint.rule': 'greater',
}


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.suffix in ('.pth', PART_SUFFIX) or path.name == 'last_checkpoint'
    )


def last(folder: Path) -> Path:
    return Path((folder / 'last_checkpoint').read_text())


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']),
        ({'max_keep_ckpts': 1}, ['epoch_3.pth']),
        ({'max_keep_ckpts': 2}, ['epoch_2.pth', 'epoch_3.pth']),
        ({'interval': 2}, ['epoch_2.pth', 'epoch_3.pth']),
        ({'interval': 2, 'save_last': False}, ['epoch_2.pth']),
        ({'save_begin': 2}, ['epoch_2.pth', 'epoch_3.pth']),
        (
            {'save_best': 'rounds', 'rule': 'greater', 'max_keep_ckpts': 1},
            ['best_rounds_epoch_3.pth', 'epoch_3.pth'],
        ),
        (
            {'save_best': ['rounds', 'accuracy'], 'rule': ['greater', 'less']},
            None,
        ),
        ({'filename_tmpl': 'step{}.pth'}, ['step1.pth', 'step2.pth', 'step3.pth']),
        ({'published_keys': ['meta', 'state_dict'], 'interval': 3}, None),
        (
            {'by_epoch': False, 'interval': 5, 'max_keep_ckpts': 2},
            ['iter_10.pth', 'iter_12.pth'],
        ),
    ],
    ids=lambda value: ', '.join(value) if isinstance(value, dict) else 'files',
)
def test_leaves_the_files_of_the_stock_hook(changes, expected, tmp_path):
    """Same names, same contents, same pointer, no left-overs."""
    changes = {
        f'default_hooks.checkpoint.{key}': value for key, value in changes.items()
    }
    changes['train_cfg.max_epochs'] = 3
    stock = {'default_hooks.checkpoint.type': 'CheckpointHook'}
    train(student(), tmp_path / 'stock', **changes, **stock)
    train(student(), tmp_path / 'ours', **changes)

    kept = files(tmp_path / 'ours')
    if expected is not None:
        assert kept == sorted([*expected, 'last_checkpoint'])
    published = 'published_keys' in str(changes)
    if published:  # these names end in a hash of the contents, which hold the time
        strip = lambda names: sorted(name.split('-')[0] for name in names)  # noqa: E731
        assert strip(kept) == strip(files(tmp_path / 'stock'))
    else:
        assert kept == files(tmp_path / 'stock')
    assert last(tmp_path / 'ours').name == last(tmp_path / 'stock').name
    assert last(tmp_path / 'ours').is_file()
    for name in kept:
        if name.endswith('.pth') and not published:
            assert (
                unlike(load(tmp_path / 'ours' / name), load(tmp_path / 'stock' / name))
                == []
            )


def unlike(one: dict, other: dict) -> list[str]:
    """Differences of two checkpoints but for times and folders."""
    for checkpoint in (one, other):
        info = checkpoint['message_hub'].pop('runtime_info')
        for key in ('last_ckpt', 'best_ckpt', 'best_ckpt_rounds', 'best_ckpt_accuracy'):
            if key in info:
                checkpoint[key] = Path(info[key]).name
        checkpoint['kept'] = info.get('keep_ckpt_ids')
        del checkpoint['message_hub'], checkpoint['meta']
    return differences(one, other)


@pytest.mark.parametrize('best', [{}, BEST], ids=['every', 'best'])
def test_a_name_without_a_number_is_replaced(best, tmp_path):
    """The file to delete is the one that was just written."""
    changes = {
        'default_hooks.checkpoint.filename_tmpl': 'latest.pth',
        'default_hooks.checkpoint.max_keep_ckpts': 1,
    }
    train(student(), tmp_path, **changes, **best)
    kept = ['last_checkpoint', 'latest.pth']
    assert files(tmp_path) == (['best_rounds_latest.pth'] if best else []) + kept
    assert load(tmp_path / 'latest.pth')['meta']['epoch'] == 2


def test_another_folder_for_checkpoints(tmp_path):
    changes = {
        'default_hooks.checkpoint.out_dir': str(tmp_path / 'store'),
        'default_hooks.checkpoint.max_keep_ckpts': 1,
    }
    train(student(), tmp_path / 'run', **changes)
    assert files(tmp_path / 'store') == ['run/epoch_2.pth']
    assert files(tmp_path / 'run') == ['last_checkpoint']
    assert last(tmp_path / 'run') == tmp_path / 'store' / 'run' / 'epoch_2.pth'


def test_the_old_file_goes_after_the_new_one_is_there(tmp_path, monkeypatch):
    """Seen from the file system at every moment that changes it."""
    seen = []
    replace, remove = os.replace, os.remove

    def watched(original):
        def call(*args):
            original(*args)
            seen.append(files(tmp_path))

        return call

    monkeypatch.setattr(os, 'replace', watched(replace))
    monkeypatch.setattr(os, 'remove', watched(remove))
    changes = {'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    train(student(), tmp_path, **changes)
    pointer = 'last_checkpoint'
    assert [[n for n in names if not n.endswith(PART_SUFFIX)] for names in seen] == [
        ['epoch_1.pth'],
        ['epoch_1.pth', pointer],
        ['epoch_1.pth', 'epoch_2.pth', pointer],
        ['epoch_1.pth', 'epoch_2.pth', pointer],
        ['epoch_2.pth', pointer],
        ['epoch_2.pth', 'epoch_3.pth', pointer],
        ['epoch_2.pth', 'epoch_3.pth', pointer],
        ['epoch_3.pth', pointer],
    ]


def test_left_overs_of_a_killed_run_are_swept_up(tmp_path):
    tmp_path.joinpath(f'.epoch_7.pth{PART_SUFFIX}').write_bytes(b'half')
    tmp_path.joinpath(f'.last_checkpoint{PART_SUFFIX}').write_text('half')
    tmp_path.joinpath('mine.part').write_text('not ours')
    train(student(), tmp_path)
    assert files(tmp_path) == [
        'epoch_1.pth',
        'epoch_2.pth',
        'last_checkpoint',
        'mine.part',
    ]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    """A real full disk: the second checkpoint hits the limit on file sizes."""
    script = f"""
import resource, signal, sys
from toy import StopAfter, quicken, student, train
quicken()
class Full(StopAfter):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from mmengine.registry import HOOKS
HOOKS.register_module(module=Full)
train(student(), {str(tmp_path)!r}, **{{
    'default_hooks.full': dict(type='Full', iteration=0),
    'default_hooks.checkpoint.max_keep_ckpts': 1, 'default_hooks.logger': None}})
"""
    done = subprocess.run(
        [sys.executable, '-c', script],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert 'File too large' in done.stderr
    assert files(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    assert load(last(tmp_path))['meta']['epoch'] == 1


def environment() -> dict:
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1')


KILLED = """
import sys, time, torch
from toy import distilled, quicken, train
quicken()
torch.set_num_threads(1)
import mmengine.fileio.backends.local_backend as backend

original = backend.LocalBackend.put

def slowly(self, data, path):
    # The second file is being written when the power goes.
    if 'epoch_2' not in str(path):
        return original(self, data, path)
    with open(path, 'wb') as file:
        file.write(bytes(data[: len(data) // 2]))
        file.flush()
        time.sleep(60)

backend.LocalBackend.put = slowly
train(distilled(), sys.argv[1], **{
    'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.type': sys.argv[2],
    'default_hooks.checkpoint.max_keep_ckpts': 1})
"""


def kill_while_writing(folder: Path, hook: str) -> None:
    process = subprocess.Popen(
        [sys.executable, '-c', KILLED, str(folder), hook],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            half = [*folder.glob('*epoch_2.pth*'), *folder.glob('.*epoch_2.pth*')]
            if half and half[0].stat().st_size:
                break
            assert process.poll() is None, 'the run ended by itself'
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL


def test_a_run_killed_while_it_saves_is_resumed(tmp_path):
    kill_while_writing(tmp_path / 'run', 'mmkd.AtomicCheckpointHook')
    part = f'.epoch_2.pth{PART_SUFFIX}'
    assert files(tmp_path / 'run') == [part, 'epoch_1.pth', 'last_checkpoint']
    assert load(last(tmp_path / 'run'))['meta']['epoch'] == 1

    changes = {'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    again = train(distilled(), tmp_path / 'run', resume=True, **changes)
    assert files(tmp_path / 'run') == ['epoch_3.pth', 'last_checkpoint']
    straight = train(distilled(), tmp_path / 'straight', **changes)
    assert recorded(again) == recorded(straight)[4:]
    assert differences(training_state(again), training_state(straight)) == []


def test_the_stock_hook_leaves_nothing_to_resume_from(tmp_path):
    """The reason for the other one, and that the kill above hits the right moment."""
    kill_while_writing(tmp_path / 'run', 'CheckpointHook')
    assert files(tmp_path / 'run') == ['epoch_2.pth', 'last_checkpoint']
    assert last(tmp_path / 'run').name == 'epoch_1.pth'
    with pytest.raises((RuntimeError, OSError)):
        load(tmp_path / 'run' / 'epoch_2.pth')


def test_resuming_keeps_counting_the_old_files(tmp_path):
    changes = {'default_hooks.checkpoint.max_keep_ckpts': 2}
    train(student(), tmp_path, **changes, **BEST)
    assert files(tmp_path) == [
        'best_rounds_epoch_2.pth',
        'epoch_1.pth',
        'epoch_2.pth',
        'last_checkpoint',
    ]
    changes['train_cfg.max_epochs'] = 3
    # `rounds` starts anew, so nothing is better than what the first run kept.
    train(student(), tmp_path, resume=True, **changes, **BEST)
    assert files(tmp_path) == [
        'best_rounds_epoch_2.pth',
        'epoch_2.pth',
        'epoch_3.pth',
        'last_checkpoint',
    ]


def test_is_the_stock_hook_to_others():
    hook = HOOKS.build(dict(type='mmkd.AtomicCheckpointHook', interval=2))
    assert isinstance(hook, CheckpointHook)
    assert hook.priority == CheckpointHook.priority


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text('new')
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']
