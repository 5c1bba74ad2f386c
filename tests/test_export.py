"""The student alone: what is written, from what, and what is never overwritten."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmkd.compat.checkpoint import CheckpointError, UnsafeCheckpointError
from mmkd.export import export_student

MODEL = "model = dict(type='mmengine.ToyModel', width=4)\n"
DISTILLED = """
model = dict(
    type='mmkd.Distill', student=dict(type='mmengine.ToyModel', width=4),
    teacher='teacher.py', losses=dict(loss_hint=dict(type='mmkd.X', at='neck')))
custom_imports = dict(imports=['mmkd'])
default_hooks = dict(
    checkpoint=dict(type='mmkd.AtomicCheckpointHook', interval=2),
    distiller_state=dict(type='mmkd.DistillerStateHook'))
work_dir = '/home/me/run'
resume = True
load_from = '/home/me/old.pth'
"""


@pytest.fixture
def state(toy_model) -> dict:
    return toy_model(width=4).state_dict()


@pytest.fixture
def save(tmp_path, state):
    """Function that writes a checkpoint and returns its path."""

    def saved(cfg=DISTILLED, name='run.pth', meta=None, **more):
        contents = dict(state_dict=state, meta=dict(cfg=cfg, **(meta or {})), **more)
        torch.save(contents, tmp_path / name)
        return tmp_path / name

    return saved


@pytest.fixture
def good(tmp_path) -> dict:
    """An exported pair that is already there."""
    pair = {tmp_path / 'out.pth': b'good weights', tmp_path / 'out.py': b'good = 1'}
    for path, contents in pair.items():
        path.write_bytes(contents)
    return pair


def assert_untouched(pair: dict) -> None:
    assert {path: path.read_bytes() for path in pair} == pair
    (folder,) = {path.parent for path in pair}
    assert not [path for path in folder.iterdir() if path.name.startswith('.')]


def weights_of(path) -> dict:
    return torch.load(path, weights_only=True)['state_dict']


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one
    )


def test_the_pair(save, state, tmp_path, toy_model):
    source = save(optimizer=dict(lr=1), distiller=dict(state_dict=state))
    weights, config = export_student(source)
    assert (weights, config) == (
        tmp_path / 'run_student.pth',
        tmp_path / 'run_student.py',
    )
    exported = torch.load(weights, weights_only=True)
    assert set(exported) == {'meta', 'state_dict'}
    assert exported['meta']['cfg'] == config.read_text()
    toy_model(width=4).load_state_dict(exported['state_dict'], strict=True)
    assert equal(exported['state_dict'], state)
    assert Config.fromfile(config).to_dict() == dict(
        model=dict(type='mmengine.ToyModel', width=4),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2)),
        resume=False,
        load_from=None,
    )


def test_folders_are_made(save, tmp_path):
    weights, _ = export_student(save(), tmp_path / 'a' / 'b.pth')
    assert weights.is_file()


def test_the_distillers_weights_stay_behind(save, state):
    state['distiller.losses.loss_hint.adapter.weight'] = torch.ones(1)
    state._metadata['distiller.losses'] = dict(version=1)
    weights = weights_of(export_student(save())[0])
    assert not [key for key in weights if 'distiller' in key]
    assert not [key for key in weights._metadata if 'distiller' in key]


def test_modules_keep_their_versions(save, state):
    weights = weights_of(export_student(save())[0])
    assert weights._metadata == state._metadata
    assert weights._metadata['backbone.norm'] == dict(version=2)


def test_plain_types_say_what_the_data_were(save):
    told = dict(
        classes=('a', 'b'),
        palette=[np.array([1, 2]), (3, np.int64(4))],
        scale=np.float32(0.5),
        names={1: 'x'},
    )
    source = save(meta=dict(dataset_meta=told, epoch=3, iter=9, seed=np.int64(1)))
    meta = torch.load(export_student(source)[0], weights_only=True)['meta']
    assert meta.pop('cfg')
    assert meta == dict(
        epoch=3,
        iter=9,
        dataset_meta=dict(
            classes=('a', 'b'),
            palette=[[1, 2], (3, 4)],
            scale=0.5,
            names={'1': 'x'},
        ),
    )


def averaged(state: dict) -> dict:
    """What EMAHook writes: the raw weights, and how often they were averaged."""
    raw = OrderedDict((f'module.{key}', value + 1) for key, value in state.items())
    return OrderedDict(steps=torch.tensor(5), **raw)


def test_nothing_is_overwritten_unasked(save, tmp_path):
    for name in ('out.pth', 'out.py'):
        (tmp_path / name).write_text('mine')
        with pytest.raises(FileExistsError, match=f'{name} exists; name another'):
            export_student(save(), tmp_path / 'out.pth')
        assert (tmp_path / name).read_text() == 'mine'
        (tmp_path / name).unlink()


def test_averaged_by_default_and_raw_on_demand(save, state):
    source = save(ema_state_dict=averaged(state))
    assert equal(weights_of(export_student(source)[0]), state)
    raw = weights_of(export_student(source, raw=True, overwrite=True)[0])
    assert equal(raw, {key: value + 1 for key, value in state.items()})
    assert raw._metadata == state._metadata


def test_raw_weights_of_a_run_without_averaging(save, good, tmp_path):
    with pytest.raises(ValueError, match='--raw needs a checkpoint of EMAHook'):
        export_student(save(), tmp_path / 'out.pth', raw=True, overwrite=True)
    assert_untouched(good)


def test_a_stored_config_is_not_executed(save, good, tmp_path):
    code = f'import pathlib; pathlib.Path({str(tmp_path / "ran")!r}).touch()\n'
    for text in (code + MODEL, MODEL + f'x = open({str(tmp_path / "ran")!r}, "w")'):
        with pytest.raises(ValueError, match='only literals are accepted'):
            export_student(save(text), tmp_path / 'out.pth', overwrite=True)
    assert not (tmp_path / 'ran').exists()
    assert_untouched(good)


def test_a_file_that_wants_to_run_code_needs_trust(save, good, state, tmp_path):
    source = save(args=argparse.Namespace(lr=1))
    with pytest.raises(UnsafeCheckpointError, match='trust=True'):
        export_student(source, tmp_path / 'out.pth', overwrite=True)
    assert_untouched(good)
    weights, _ = export_student(
        source, tmp_path / 'out.pth', trust=True, overwrite=True
    )
    assert equal(weights_of(weights), state)


@pytest.mark.parametrize(
    ('contents', 'error', 'message'),
    [
        (b'PK\x03\x04 half a file', CheckpointError, 'may be damaged'),
        (b'no checkpoint', CheckpointError, 'not a checkpoint written by torch'),
        ([1, 2], ValueError, r'bad\.pth holds no state_dict'),
        (dict(meta={}), ValueError, r'bad\.pth holds no state_dict'),
        (dict(state_dict={}), ValueError, 'holds no config; name it with --config'),
        (dict(state_dict={}, meta=dict(cfg='a = (')), ValueError, 'not Python'),
        (None, FileNotFoundError, r'bad\.pth does not exist'),
    ],
)
def test_bad_input_overwrites_nothing(good, tmp_path, contents, error, message):
    source = tmp_path / 'bad.pth'
    if isinstance(contents, bytes):
        source.write_bytes(contents)
    elif contents is not None:
        torch.save(contents, source)
    with pytest.raises(error, match=message):
        export_student(source, tmp_path / 'out.pth', overwrite=True)
    assert_untouched(good)


def test_a_config_for_a_checkpoint_without(save, tmp_path):
    (tmp_path / 'cfg.py').write_text(DISTILLED)
    _, config = export_student(save(cfg=''), config=tmp_path / 'cfg.py')
    assert Config.fromfile(config).model.type == 'mmengine.ToyModel'


def test_a_config_of_another_model(save, good, tmp_path):
    (tmp_path / 'cfg.py').write_text(MODEL.replace('4', '8'))
    with pytest.raises(ValueError, match=r'run\.pth do not fit ToyModel; other shapes'):
        export_student(
            save(), tmp_path / 'out.pth', config=tmp_path / 'cfg.py', overwrite=True
        )
    assert_untouched(good)


@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('run.pth', 'out must not be the checkpoint itself'),
        ('sub/../run.pth', 'out must not be the checkpoint itself'),
        ('cfg.pth', r'would overwrite the config of the run: .*cfg\.py'),
        ('student.py', r'out must end with \.pth'),
        ('student', r'out must end with \.pth'),
    ],
)
def test_what_is_never_written_to(save, tmp_path, out, message):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'cfg.py').write_text(DISTILLED)
    source = save()
    before = source.read_bytes()
    with pytest.raises(ValueError, match=message):
        export_student(source, tmp_path / out, config=tmp_path / 'cfg.py')
    assert source.read_bytes() == before
    assert (tmp_path / 'cfg.py').read_text() == DISTILLED


def test_an_interrupted_write_leaves_the_old_pair(save, good, tmp_path, monkeypatch):
    source = save()

    def half(contents, path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(KeyboardInterrupt):
        export_student(source, tmp_path / 'out.pth', overwrite=True)
    assert_untouched(good)


def test_an_old_pair_is_replaced_and_not_written_into(save, good, state, tmp_path):
    for path in good:
        (tmp_path / f'link_{path.name}').hardlink_to(path)
    weights, config = export_student(save(), tmp_path / 'out.pth', overwrite=True)
    assert equal(weights_of(weights), state)
    assert Config.fromfile(config).model.width == 4
    # Whoever has the old files open keeps reading them.
    links = [tmp_path / f'link_{path.name}' for path in good]
    assert [link.read_bytes() for link in links] == list(good.values())
