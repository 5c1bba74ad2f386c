"""Every mistake on docs/errors.md is made, and answered as it stands there."""

import argparse
import json
import math
import os
import re
import shutil
import socket
from dataclasses import dataclass

import pytest
import torch
from tool_runs import HINT, ROOT, SEG_STUDENT, STUDENT, call_tool, checkpoint, run_tool

PAGE = ROOT / 'docs' / 'errors.md'


@dataclass
class Fault:
    """One mistake of the page.

    Args:
        what: It in words.
        config: What is added to the config.
        line: Tool and arguments.
        says: The answer; ``...`` stands for anything.
    """

    what: str
    config: str
    line: str
    says: str


def faults() -> list[Fault]:
    found = []
    for group, block in re.findall(
        r'^## ([^\n]+)\n\n```text\n(.*?)^```$',
        PAGE.read_text(),
        re.DOTALL | re.MULTILINE,
    ):
        for entry in block.strip().split('\n\n'):
            what, *lines = entry.splitlines()
            config = [line[2:] for line in lines if line.startswith('| ')]
            (command,) = [line[2:] for line in lines if line.startswith('$ ')]
            answer = ' '.join(lines[lines.index(f'$ {command}') + 1 :])
            answer = ' '.join(answer.split())
            assert what.startswith('# ')
            assert answer.startswith('error: ')
            found.append(
                Fault(f'{group}: {what[2:]}', '\n'.join(config), command, answer)
            )
    return found


FAULTS = faults()


class Malicious:
    def __reduce__(self):
        return os.system, ('touch it_ran',)


@pytest.fixture(scope='module')
def desk(place, hint_run, seg_run, tmp_path_factory):
    """A folder with good and bad files in it, and the work directory of a run."""
    desk = tmp_path_factory.mktemp('desk')
    for name in ('student', 'teacher', 'seg_student'):
        shutil.copy(place / f'{name}.py', desk)
    for name in ('teacher', 'seg_teacher'):
        shutil.copy(place / f'{name}.pth', desk)
    shutil.copy(seg_run / 'seg_student.py', desk / 'seg.py')
    (desk / 'folder').mkdir()
    for name, text in (
        ('hint', HINT.format(folder='.')),
        ('broken', 'model = dict('),
        ('baseless', "_base_ = 'absent.py'"),
        ('modelless', 'data_root = 1'),
        ('dataless', STUDENT.replace('data/digits/', 'nowhere/')),
        ('seg_bare', SEG_STUDENT.format(width=16).replace('tta_', 'other_')),
    ):
        (desk / f'{name}.py').write_text(text)
    write_checkpoints(desk, hint_run, seg_run)
    write_annotations(desk, place / 'big_disk' / 'digits')
    shutil.copytree(hint_run, desk / 'run')
    for name in ('student', 'seg', 'seg_student', 'case'):
        (desk / 'run' / f'{name}.py').write_text(f"'{name} of an earlier run'")
    assert (desk / 'run' / 'hint.py').is_file()
    assert (desk / 'run' / 'student_config.py').is_file()
    return desk


@pytest.fixture(scope='module')
def before(desk) -> dict:
    """All files at the start and what is in them."""
    return {path: path.read_bytes() for path in desk.rglob('*') if path.is_file()}


def write_checkpoints(desk, hint_run, seg_run):
    good = checkpoint(hint_run / 'epoch_1.pth')
    torch.save(good, desk / 'good.pth')
    shutil.copy(seg_run / 'iter_4.pth', desk / 'seg_run.pth')
    del good['distiller']
    torch.save(good, desk / 'stateless.pth')
    torch.save(dict(good, args=argparse.Namespace(lr=1)), desk / 'unsafe.pth')
    torch.save(dict(good, args=Malicious()), desk / 'malicious.pth')
    (desk / 'truncated.pth').write_bytes((desk / 'good.pth').read_bytes()[:9999])
    (desk / 'empty.pth').touch()
    (desk / 'page.pth').write_text('<html>404</html>')
    torch.save(dict(state_dict=good['state_dict']), desk / 'cfgless.pth')
    torch.save([1], desk / 'list.pth')
    bad = checkpoint(desk / 'teacher.pth')
    bad['state_dict']['neck.fpn_convs.1.conv.bias'][3] = math.nan
    torch.save(bad, desk / 'nan.pth')


def write_annotations(desk, digits):
    text = (digits / 'annotations' / 'train.json').read_text()
    (desk / 'truncated.json').write_text(text[: len(text) // 2])
    (desk / 'list.json').write_text('[]')
    (desk / 'other.json').write_text('{"name": "something else"}')
    (desk / 'damaged.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')
    good = json.loads(text)
    images, objects = good['images'], good['annotations']
    # One picture of each pair that a batch is made of has objects.
    kept = {image['id'] for image in images[: len(images) // 2]}
    for name, change in (
        ('no_pictures', dict(images=[], annotations=[])),
        ('no_objects', dict(annotations=[])),
        (
            'some_objects',
            dict(annotations=[o for o in objects if o['image_id'] in kept]),
        ),
        ('missing', dict(images=renamed(images, 'none.png'))),
        ('damaged', dict(images=renamed(images, f'{desk}/damaged.png'))),
    ):
        (desk / f'{name}.json').write_text(json.dumps({**good, **change}))


def renamed(images: list[dict], name: str) -> list[dict]:
    return [dict(image, file_name=name) for image in images]


@pytest.fixture
def _at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    # No network, and no downloads of earlier days.
    monkeypatch.setattr(torch.hub, '_hub_dir', str(desk / 'hub'))
    monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)


def unreachable(*args, **kwargs):
    raise socket.gaierror('Name or service not known')


def arguments_of(fault: Fault, desk) -> list[str]:
    tool, config, *options = fault.line.replace('$PWD', str(desk)).split()
    if fault.config:
        (desk / 'case.py').write_text(f"_base_ = '{config}'\n{fault.config}\n")
        config = 'case.py'
    if tool != 'export' and '--work-dir' not in options:
        options = ['--work-dir', 'run', *options]
    return [tool, config, *options]


@pytest.mark.usefixtures('_at_the_desk')
@pytest.mark.parametrize('fault', FAULTS, ids=[fault.what for fault in FAULTS])
def test_a_mistake_is_answered_as_the_page_says(desk, before, fault):
    if '--amp without a GPU' in fault.what and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    done = call_tool(*arguments_of(fault, desk))
    assert done.code == 2, done.out[-999:]
    said = done.err.replace(f'{desk}/', '')
    if said.startswith('usage: '):  # argparse tells how a tool is called, too
        said = said[said.index('.py: error: ') + len('.py: ') :]
    pattern = '.*'.join(map(re.escape, fault.says.split('...')))
    assert re.fullmatch(pattern, ' '.join(said.split())), said
    assert 'Traceback' not in said
    changed = [p for p in before if not p.is_file() or p.read_bytes() != before[p]]
    assert changed == []
    assert not (desk / 'it_ran').exists()


TERMS = """
model = dict(losses=dict(
    loss_box=dict(
        type='mmkd.FeatureImitationLoss', at='neck', region='inside_gt'),
    loss_cwd=dict(type='mmkd.ChannelWiseDivergenceLoss', at='neck'),
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_vlr=dict(type='mmkd.LocalizationDistillationLoss', region='vlr'),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss')))
train_dataloader = dict(dataset=dict(filter_cfg=None))
train_cfg = dict(max_epochs=1, val_interval=9)
"""


@pytest.mark.usefixtures('_at_the_desk')
@pytest.mark.parametrize('annotations', ['no_objects', 'some_objects'])
def test_pictures_without_objects_are_trained_on(desk, tmp_path, annotations):
    (desk / 'case.py').write_text(f"_base_ = 'hint.py'\n{TERMS}")
    done = call_tool(
        'train', 'case.py', '--work-dir', tmp_path, '--seed', 0, '--cfg-options',
        f'train_dataloader.dataset.ann_file={desk}/{annotations}.json',
    )  # fmt: skip
    assert done.code == 0, done.err
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in logged if 'loss' in line]
    assert len(steps) == 4
    names = {key for key in steps[0] if 'loss' in key}
    assert names > {'loss_hint', 'loss_box', 'loss_cwd', 'loss_ld', 'loss_vlr'}
    assert all(math.isfinite(step[name]) for step in steps for name in names)
    has_objects = annotations == 'some_objects'
    assert any(step['loss_box'] > 0 for step in steps) is has_objects
    weights = checkpoint(tmp_path / 'epoch_1.pth')['state_dict'].values()
    assert all(weight.isfinite().all() for weight in weights)


def test_the_page_is_read_as_a_whole():
    assert len(FAULTS) == PAGE.read_text().count('\n$ ') > 100


def test_the_process_ends_with_code_2(place, tmp_path):
    done = run_tool('train', 'none.py', cwd=tmp_path)
    assert done.code == 2
    assert done.err.splitlines()[-1] == "error: config 'none.py' does not exist"
    assert 'Traceback' not in done.err + done.out


def test_the_traceback_is_there_for_who_wants_it(place, monkeypatch):
    monkeypatch.setenv('MMKD_TRACEBACK', '1')
    with pytest.raises(FileNotFoundError):
        call_tool('train', 'none.py')


@pytest.mark.usefixtures('_at_the_desk')
def test_errors_in_training_keep_their_traceback(tmp_path, monkeypatch):
    from mmdet.models import GFL

    def broken(*args):
        raise ValueError('a bug')

    monkeypatch.setattr(GFL, 'loss', broken)
    with pytest.raises(ValueError, match='a bug'):
        call_tool('train', 'hint.py', '--work-dir', tmp_path)
