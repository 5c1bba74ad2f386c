"""Teachers from names, configs and files: what is accepted, and how strictly."""

import argparse
import copy
import logging
import random
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from mmkd.compat.checkpoint import UnsafeCheckpointError, load_file
from mmkd.config import distill_config
from mmkd.teacher import build_teacher
from mmkd.teacher_loading import load_strictly, state_dict_of

TOY = "model = dict(type='mmengine.ToyModel', width=4)\n"


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / 'toy.py'
    path.write_text(TOY)
    return str(path)


@pytest.fixture
def weights(toy_model) -> dict:
    return toy_model(width=4).state_dict()


@pytest.fixture
def save(tmp_path):
    """Function that saves a checkpoint and returns its path."""

    def saved(state_dict, name='toy.pth', **more) -> str:
        torch.save(dict(state_dict=state_dict, **more), tmp_path / name)
        return str(tmp_path / name)

    return saved


@pytest.fixture
def logged():
    """Lines that the project logs."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Handler()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def read_weights(path):
    return state_dict_of(load_file(path), path)


def assert_same(model: nn.Module, state: dict) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_config_and_checkpoint(config, weights, save, toy_model):
    path = save(weights)
    teacher = build_teacher(dict(config=config, checkpoint=path))
    assert type(teacher.model) is toy_model
    assert_same(teacher.model, weights)
    assert teacher.source == f'{config}, {path}'


def test_a_config_given_in_place(weights, save):
    cfg = Config(dict(model=dict(type='mmengine.ToyModel', width=4)))
    before = copy.deepcopy(cfg.to_dict())
    teacher = build_teacher(dict(config=cfg, checkpoint=save(weights)))
    assert_same(teacher.model, weights)
    assert cfg.to_dict() == before


def test_a_network_that_exists(toy_model):
    model = toy_model()
    teacher = build_teacher(model)
    assert teacher.model is model
    assert teacher.source == 'module'


def test_a_checkpoint_alone_brings_its_config(weights, save, toy_model):
    path = save(weights, meta=dict(cfg=TOY, epoch=3))
    for teacher in (build_teacher(path), build_teacher(dict(checkpoint=path))):
        assert type(teacher.model) is toy_model
        assert_same(teacher.model, weights)


def test_a_bare_state_dict_is_a_checkpoint_too(config, weights, tmp_path):
    torch.save(weights, tmp_path / 'bare.pt')
    checkpoint = str(tmp_path / 'bare.pt')
    teacher = build_teacher(dict(config=config, checkpoint=checkpoint))
    assert_same(teacher.model, weights)


def test_a_checkpoint_without_config_asks_for_it(weights, save):
    with pytest.raises(
        ValueError, match=r'holds no config; name it with dict\(config='
    ):
        build_teacher(save(weights))


def test_a_stored_config_is_never_executed(weights, save, tmp_path):
    code = f'import pathlib; pathlib.Path({str(tmp_path / "ran")!r}).touch()\n'
    with pytest.raises(ValueError, match='line 1: .* literal'):
        build_teacher(save(weights, meta=dict(cfg=code + TOY)))
    assert not (tmp_path / 'ran').exists()


def test_a_file_that_wants_to_run_code_needs_trust(config, weights, save):
    checkpoint = save(weights, meta=dict(args=argparse.Namespace(lr=1)))
    with pytest.raises(UnsafeCheckpointError, match='trust=True'):
        build_teacher(dict(config=config, checkpoint=checkpoint))
    teacher = build_teacher(dict(config=config, checkpoint=checkpoint, trust=True))
    assert_same(teacher.model, weights)


@pytest.mark.parametrize(
    ('teacher', 'error', 'message'),
    [
        ('no_such.py', FileNotFoundError, "config 'no_such.py' does not exist"),
        ('no_such.pth', FileNotFoundError, "checkpoint 'no_such.pth' does not exist"),
        ('mmdet::gfl/none.py', FileNotFoundError, "'mmdet::gfl/none.py' is not among"),
        ('nolib::a/b.py', ValueError, "'nolib::a/b.py': the library is not known"),
        ({}, ValueError, 'must name a config, a checkpoint or both'),
        (dict(cfg='x'), ValueError, r"accepts \['allow_missing', .* given \['cfg'\]"),
        (3, TypeError, 'zoo name, a path, a dict or a module but is int'),
        (None, TypeError, 'zoo name, a path, a dict or a module but is NoneType'),
    ],
)
def test_what_names_no_teacher_is_an_error(teacher, error, message):
    if 'mmdet' in str(teacher):
        pytest.importorskip('mmdet')
    with pytest.raises(error, match=message):
        build_teacher(teacher)


def test_a_teacher_without_weights_must_be_meant(config):
    for teacher in (
        config,
        dict(config=config),
        dict(config=config, checkpoint=None),
        dict(config=config, checkpoint=None, allow_random=False),
    ):
        with pytest.raises(ValueError, match='has no weights: .* allow_random=True'):
            build_teacher(teacher)
    build_teacher(dict(config=config, checkpoint=None, allow_random=True))


def test_missing_and_unexpected_keys_are_listed(config, weights, save):
    weights['surplus.weight'] = weights.pop('head.weight')
    del weights['backbone.norm.bias']
    checkpoint = save(weights)
    message = (
        f'weights of {checkpoint} do not fit ToyModel; missing: backbone.norm.bias, '
        'head.weight; unexpected: surplus.weight'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        build_teacher(dict(config=config, checkpoint=checkpoint))


def test_shapes_that_do_not_fit_are_listed(config, weights, save):
    weights['head.weight'] = torch.zeros(6, 4)
    weights['head.bias'] = torch.zeros(6)
    listed = r'shapes: head\.weight \(6, 4\).*\(5, 4\).*head\.bias \(6\).*\(5\)'
    with pytest.raises(ValueError, match=listed):
        build_teacher(dict(config=config, checkpoint=save(weights)))


def test_shapes_do_not_hide_missing_and_unexpected_keys(config, weights, save):
    weights['head.weight'] = torch.zeros(6, 4)
    weights['surplus'] = weights.pop('head.bias')
    listed = r'shapes: head\.weight.*missing: head\.bias; unexpected: surplus$'
    with pytest.raises(ValueError, match=listed):
        build_teacher(dict(config=config, checkpoint=save(weights)))


def test_long_lists_are_cut():
    model = nn.ModuleList(nn.Linear(1, 1) for _ in range(15))
    with pytest.raises(ValueError, match=r'missing: 0\.weight, .* and 25 more$'):
        load_strictly(model, {})


def test_allowed_patterns_may_be_missing(config, weights, save, toy_model):
    kept = {k: v for k, v in weights.items() if not k.startswith('head.')}
    teacher = dict(config=config, checkpoint=save(kept))
    with pytest.raises(ValueError, match='missing: head.bias'):
        build_teacher(dict(teacher, allow_missing=['head.weight', 'neck.*']))
    model = build_teacher(dict(teacher, allow_missing=['head.*'])).model
    assert torch.equal(model.backbone.conv.weight, weights['backbone.conv.weight'])


def test_one_pattern_without_a_list_allows_no_more_than_it_says(config, weights, save):
    del weights['head.weight'], weights['backbone.conv.weight']
    teacher = dict(config=config, checkpoint=save(weights), allow_missing='head.*')
    with pytest.raises((ValueError, TypeError), match='backbone.conv|allow_missing'):
        build_teacher(teacher)


def test_allowing_to_miss_keys_does_not_allow_others(config, weights, save):
    weights['surplus'] = torch.zeros(1)
    teacher = dict(config=config, checkpoint=save(weights), allow_missing=['*'])
    with pytest.raises(ValueError, match='unexpected: surplus$'):
        build_teacher(teacher)


def test_harmless_keys_are_passed_over_and_left_over_ones_reported(
    config, weights, save, logged
):
    del weights['backbone.norm.num_batches_tracked']
    weights['data_preprocessor.mean'] = torch.zeros(3, 1, 1)
    weights['ema_head_weight'] = torch.zeros(5, 4)
    checkpoint = save(weights)
    build_teacher(dict(config=config, checkpoint=checkpoint))
    line = logged[-1]
    assert line.startswith(f'{checkpoint}: not used: ')
    assert set(line.rpartition(': ')[2].split(', ')) == {
        'data_preprocessor.mean',
        'ema_head_weight',
    }


@pytest.mark.parametrize('contents', [dict(state_dict={}), [1, 2], dict(state_dict=3)])
def test_a_file_without_weights_is_an_error(config, tmp_path, contents):
    torch.save(contents, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='empty.pth holds no state_dict'):
        build_teacher(dict(config=config, checkpoint=str(tmp_path / 'empty.pth')))


def test_weights_saved_from_inside_ddp(config, weights, save):
    wrapped = nn.ModuleDict(dict(module=build_teacher(
        dict(config=config, checkpoint=save(weights))).model))  # fmt: skip
    inside = wrapped.state_dict()
    assert all(key.startswith('module.') for key in inside)
    checkpoint = save(inside, 'ddp.pth')
    teacher = build_teacher(dict(config=config, checkpoint=checkpoint))
    assert_same(teacher.model, weights)


class Migrating(nn.Module):
    """Reads old checkpoints in its own way, as several stock modules do."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if metadata.get('version', 1) < 2:  # negated, and under another name
            state[f'{prefix}weight'] = -state.pop(f'{prefix}old')
        super()._load_from_state_dict(state, prefix, metadata, *args)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_old_files_are_migrated_by_the_modules(prefix, tmp_path):
    torch.save({f'{prefix}old': torch.tensor([3.0])}, tmp_path / 'old.pth')
    model = Migrating()
    load_strictly(model, read_weights(tmp_path / 'old.pth'))
    assert model.weight.item() == -3


@pytest.mark.parametrize('inside_ddp', [False, True])
def test_new_files_keep_their_version_and_are_not_migrated(inside_ddp, tmp_path):
    model = nn.ModuleDict(dict(head=Migrating()))
    saved = nn.ModuleDict(dict(module=model)) if inside_ddp else model
    torch.save(saved.state_dict(), tmp_path / 'new.pth')
    load_strictly(model, read_weights(tmp_path / 'new.pth'))
    assert model['head'].weight.item() == 1


def test_building_leaves_every_random_state_alone(config):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    build_teacher(dict(config=config, checkpoint=None, allow_random=True))
    assert draw() == expected


def test_a_distilled_model_teaches_as_its_student(weights, save):
    cfg = distill_config(Config.fromstring(TOY, '.py'), 'gone.pth', {})
    teacher = build_teacher(dict(config=cfg, checkpoint=save(weights)))
    assert_same(teacher.model, weights)
    assert not hasattr(teacher.model, 'distiller')


def test_its_preprocessor_may_stand_beside_the_student(weights, save):
    cfg = distill_config(Config.fromstring(TOY, '.py'), 'gone.pth', {})
    cfg.model.student.pop('data_preprocessor', None)
    cfg.model.data_preprocessor = dict(
        type='ImgDataPreprocessor', mean=[1.0, 2, 3], std=[4.0, 5, 6]
    )
    teacher = build_teacher(dict(config=cfg, checkpoint=save(weights)))
    assert teacher.model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


def test_a_weight_of_a_harmless_name_is_missed():
    model = nn.Module()
    model.attn_mask = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match='missing: attn_mask'):
        load_strictly(model, {})
    model = nn.Module()
    model.register_buffer('attn_mask', torch.zeros(1))
    load_strictly(model, dict(ema_weight=torch.zeros(1)))
