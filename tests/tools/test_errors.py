"""What a user can get wrong is one sentence on stderr and exit code 2."""

import argparse
import re
import socket

import pytest
import torch
from tool_runs import STUDENT, call_tool, checkpoint, run_tool

ZOO = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
SECOND = 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'


@pytest.fixture
def desk(place, hint_run, tmp_path, monkeypatch):
    """A working directory with good and bad files in it."""
    for name in ('student', 'teacher', 'hint'):
        (tmp_path / f'{name}.py').write_text((place / f'{name}.py').read_text())
    (tmp_path / 'broken.py').write_text('model = dict(')
    (tmp_path / 'modelless.py').write_text('data_root = 1')
    (tmp_path / 'dataless.py').write_text(STUDENT.replace('data/digits/', 'nowhere/'))
    (tmp_path / 'schedule.py').write_text(
        "_base_ = 'hint.py'\n"
        "default_hooks = dict(plan=dict(type='mmkd.DistillScheduleHook',"
        ' losses=dict(loss_hnt=dict(end=1))))'
    )
    good = checkpoint(hint_run / 'epoch_1.pth')
    torch.save(good, tmp_path / 'good.pth')
    del good['distiller']
    torch.save(good, tmp_path / 'stateless.pth')
    good['args'] = argparse.Namespace(lr=1)
    torch.save(good, tmp_path / 'unsafe.pth')
    (tmp_path / 'corrupt.pth').write_bytes((tmp_path / 'good.pth').read_bytes()[:999])
    torch.save(dict(state_dict={}), tmp_path / 'cfgless.pth')
    torch.save([1], tmp_path / 'list.pth')
    monkeypatch.chdir(tmp_path)
    # No network, and no downloads of earlier days.
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
    for name in ('RANK', 'WORLD_SIZE', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def unreachable(*args, **kwargs):
    raise socket.gaierror('Name or service not known')


TRAIN = [
    ('none.py', r"config 'none\.py' does not exist"),
    ('mmdet::gfl/none.py', r"'mmdet::gfl/none\.py' is not among the shipped configs"),
    ('mmkd::none.py', r"'mmkd::none\.py' is not among the shipped configs"),
    ('nolib::a/b.py', r"'nolib::a/b\.py': the library is not known .*'mmseg'"),
    ('broken.py', r"config 'broken\.py' cannot be read: SyntaxError: .*never closed"),
    ('modelless.py', r"config 'modelless\.py' has no model"),
    ('dataless.py', r'No such file or directory: nowhere/annotations/train\.json'),
    ('schedule.py', r"names \['loss_hnt'\] but the model distils \['loss_hint'\]"),
    ('student.py --method hint', '--method needs --teacher'),
    ('student.py --teacher teacher.py', '--teacher needs --method'),
    (
        'student.py --teacher teacher.py --method hnt',
        r"method must be one of \[.*'cwd', 'hint'.*\] but is 'hnt'",
    ),
    (
        'student.py --teacher teacher.py --method hint',
        r'the teacher has no weights: .*allow_random=True',
    ),
    ('student.py --teacher none.py --method hint', r"'none\.py' does not exist"),
    ('student.py --teacher none.pth --method hint', r"'none\.pth' does not exist"),
    ('student.py --teacher corrupt.pth --method hint', 'it may be damaged'),
    ('student.py --teacher unsafe.pth --method hint', 'refused.*trust=True'),
    ('student.py --teacher list.pth --method hint', 'list.pth holds no state_dict'),
    ('student.py --teacher cfgless.pth --method hint', 'cfgless.pth holds no'),
    (
        f'student.py --teacher {SECOND} --method hint',
        r'https://download\.openmmlab\.com/.*/gfl_r101.*\.pth could not be downloaded'
        r'.*put it at .*hub/checkpoints/gfl_r101.*\.pth',
    ),
    (
        'hint.py --cfg-options model.losses.loss_hint.at=nekc',
        "'nekc' is not a sub-module of .*GFL.*; did you mean 'neck'",
    ),
    ('hint.py --cfg-options model.losses.loss_hint.nrom=l1', "unexpected .*'nrom'"),
    ('hint.py --cfg-options model.losses.loss_hint.norm=l3', 'l3'),
    ('hint.py --cfg-options model.losses.hint.at=neck', 'hint must have a type'),
    ('hint.py --cfg-options model.bakbone.depth=1', "unexpected .*'bakbone'"),
    ('hint.py --cfg-options model.teacher.checkpoint=none.pth', "'none.pth' does not"),
    ('hint.py --cfg-options model.teacher.weights=1', r"was given \['weights'\]"),
    ('hint.py --resume none.pth', r"checkpoint 'none\.pth' does not exist"),
    ('hint.py --resume corrupt.pth', r'corrupt\.pth cannot be loaded.*damaged'),
    ('hint.py --resume unsafe.pth', r'unsafe\.pth is refused'),
    ('hint.py --resume list.pth', r'list\.pth is no checkpoint of a run'),
    ('hint.py --resume cfgless.pth', r'cfgless\.pth is no checkpoint of a run'),
    (
        'hint.py --resume stateless.pth',
        r'no state of the distiller; write it with default_hooks=dict\('
        r"distiller_state=dict\(type='mmkd\.DistillerStateHook'\)\)",
    ),
    ('hint.py --launcher pytorch', '--launcher pytorch needs torchrun'),
    (
        'hint.py --auto-scale-lr --cfg-options auto_scale_lr=None',
        '--auto-scale-lr needs auto_scale_lr.base_batch_size',
    ),
    ('hint.py --cfg-options optim_wrapper.type=Nope --amp', '--amp needs .* not Nope'),
]
TEST = [
    ('hint.py none.pth', r"checkpoint 'none\.pth' does not exist"),
    ('none.py good.pth', r"config 'none\.py' does not exist"),
    ('hint.py corrupt.pth', 'damaged'),
    ('hint.py unsafe.pth', 'refused'),
    ('dataless.py good.pth', 'No such file or directory: nowhere/annotations/val'),
]
EXPORT = [
    ('none.pth', r'none\.pth does not exist'),
    ('corrupt.pth', 'damaged'),
    ('unsafe.pth', 'refused'),
    ('list.pth', 'list.pth holds no state_dict'),
    ('cfgless.pth', 'cfgless.pth holds no config; name it with --config'),
    ('good.pth --raw', '--raw needs a checkpoint of EMAHook'),
    ('good.pth --out good.pth', 'out must not be the checkpoint itself'),
    ('good.pth --out student.py', r'out must end with \.pth'),
    ('good.pth --config teacher.py', r'good\.pth do not fit GFL; other shapes'),
    ('good.pth --config hint.py --out hint.pth', 'out would overwrite the config'),
]
CASES = [
    pytest.param(tool, line, message, id=f'{tool} {line}')
    for tool, table in (('train', TRAIN), ('test', TEST), ('export', EXPORT))
    for line, message in table
]


@pytest.mark.parametrize(('tool', 'line', 'message'), CASES)
def test_one_sentence(desk, tool, line, message):
    before = {path: path.read_bytes() for path in desk.iterdir() if path.is_file()}
    done = call_tool(tool, *line.split())
    assert done.code == 2
    assert 'Traceback' not in done.err
    *_, sentence = done.err.strip().splitlines()
    assert sentence.startswith('error')
    assert re.search(message, sentence)
    assert before == {p: p.read_bytes() for p in desk.iterdir() if p.is_file()}


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_mixed_precision_without_a_gpu(desk):
    done = call_tool('train', 'hint.py', '--amp')
    assert (done.code, done.err.count('error: --amp needs a GPU')) == (2, 1)


@pytest.mark.parametrize('option', ['model', 'a=[dict(b=1,c=2)]'])
def test_options_that_cannot_be_read(desk, option):
    done = call_tool('train', 'hint.py', '--cfg-options', option)
    assert done.code == 2
    assert f'{option!r} is not KEY=VALUE' in done.err.splitlines()[-1]


def test_the_process_ends_with_code_2(place, tmp_path):
    done = run_tool('train', 'none.py', cwd=tmp_path)
    assert done.code == 2
    assert done.err.splitlines()[-1] == "error: config 'none.py' does not exist"
    assert 'Traceback' not in done.err + done.out


def test_the_traceback_is_there_for_who_wants_it(desk, monkeypatch):
    monkeypatch.setenv('MMKD_TRACEBACK', '1')
    with pytest.raises(FileNotFoundError):
        call_tool('train', 'none.py')


def test_errors_in_training_keep_their_traceback(desk, monkeypatch):
    from mmdet.models import GFL

    def broken(*args):
        raise ValueError('a bug')

    monkeypatch.setattr(GFL, 'loss', broken)
    with pytest.raises(ValueError, match='a bug'):
        call_tool('train', 'hint.py')
