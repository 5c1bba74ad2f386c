"""From names to configs, from stock to distilled, and back."""

import copy
import importlib.util

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import mmkd.config
from mmkd.config import (
    add_default_hooks,
    distill_config,
    is_distilled,
    load_config,
    method_losses,
    method_names,
    model_scope,
    student_config,
    teacher_options,
    without_run,
)
from mmkd.hooks import DistillerStateHook

LOSSES = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))


def stock(**more) -> Config:
    return Config(dict(model=dict(type='GFL', depth=50), default_scope='mmdet', **more))


def test_a_path(tmp_path):
    (tmp_path / 'a.py').write_text('model = dict(type="GFL")')
    assert load_config(tmp_path / 'a.py').model.type == 'GFL'


def test_zoo_names_bring_the_address_of_their_weights():
    pytest.importorskip('mmdet')
    cfg = load_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
    assert cfg.model.type == 'GFL'
    assert cfg.model_path.endswith('gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth')


def test_zoo_names_without_weights_are_configs_all_the_same():
    pytest.importorskip('mmdet')
    cfg = load_config('mmdet::dino/dino-4scale_r50_8xb2-36e_coco.py')
    assert cfg.model.type == 'DINO'
    assert 'model_path' not in cfg
    base = load_config('mmdet::_base_/default_runtime.py')
    assert 'model_path' not in base


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('none.py', FileNotFoundError, "config 'none.py' does not exist"),
        ('.', FileNotFoundError, "config '.' does not exist"),
        ('mmkd::none.py', FileNotFoundError, 'not among the shipped'),
        ('mmkd::hint/none.py', FileNotFoundError, 'not among the shipped'),
        ('nolib::a/b.py', ValueError, "not known to mmengine; known are .*'mmdet'"),
    ],
)
def test_names_of_nothing(name, error, message):
    with pytest.raises(error, match=message):
        load_config(name)


def test_a_library_that_is_not_installed_is_not_downloaded(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        mmkd.config.importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'mmpose' else find(name, *rest),
    )
    with pytest.raises(ModuleNotFoundError, match=r"'mmpose::a/b\.py': mmpose is not"):
        load_config('mmpose::a/b.py')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError: .* was never closed'),
        ('model = dict(depth=fifty)', "NameError: name 'fifty'"),
        ("_base_ = 'none.py'", r'none\.py'),
    ],
)
def test_a_broken_config_is_named(tmp_path, text, message):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config '.*broken\.py' cannot .*{message}"):
        load_config(path)


def test_a_config_given_is_copied():
    cfg = stock()
    load_config(cfg).model.depth = 18
    load_config(cfg.to_dict()).model.depth = 18
    assert cfg.model.depth == 50


def test_presets_are_the_files_of_their_folder():
    of_detectors = {'chen2017', 'ld', 'pkd', 'fgd', 'crosskd'}
    of_segmentors = {'skds', 'skds_pami_code', 'skds_cvpr19_code'}
    assert {'hint', 'cwd', *of_detectors, *of_segmentors} <= set(method_names())
    for name in method_names():
        scopes = {'mmdet', 'mmseg'}
        if name in of_detectors:
            scopes.remove('mmseg')
        if name in of_segmentors:
            scopes.remove('mmdet')
        for scope in scopes:
            for loss in method_losses(name, scope).values():
                assert loss['type'].startswith('mmkd.')


def test_unknown_presets_and_libraries():
    with pytest.raises(ValueError, match=r"one of \[.*'cwd'.*'hint'.*\] but is 'hnt'"):
        method_losses('hnt', 'mmdet')
    with pytest.raises(ValueError, match="'hint' has no preset for mmpose models"):
        method_losses('hint', 'mmpose')


@pytest.mark.parametrize(
    ('scope', 'wrapper'),
    [
        ('mmdet', 'mmkd.DistillDetector'),
        ('mmseg', 'mmkd.DistillSegmentor'),
        ('mmpose', 'mmkd.Distill'),
    ],
)
def test_distil_and_back(scope, wrapper):
    cfg = stock(custom_imports=dict(imports=['mine'], allow_failed_imports=False))
    cfg.default_scope = scope
    before = copy.deepcopy(cfg.to_dict())
    made = distill_config(cfg, 'teacher.py', LOSSES)
    assert made.model.type == wrapper
    assert made.model.student == before['model']
    assert (made.model.teacher, made.model.losses) == ('teacher.py', LOSSES)
    assert made.custom_imports.imports == ['mine', 'mmkd']
    assert is_distilled(made)
    assert model_scope(made) == scope
    assert student_config(made).to_dict() == before == cfg.to_dict()


def test_a_stock_config_needs_no_import_of_its_own():
    made = distill_config(stock(), 'teacher.py', LOSSES)
    assert made.custom_imports == dict(imports=['mmkd'])
    assert 'custom_imports' not in student_config(made)


def test_distilling_twice():
    made = distill_config(stock(), 'teacher.py', LOSSES)
    with pytest.raises(ValueError, match='already names a teacher'):
        distill_config(made, 'teacher.py', LOSSES)


def test_a_scope_of_the_model_itself_counts():
    cfg = stock()
    cfg.model._scope_ = 'mmseg'
    assert model_scope(cfg) == 'mmseg'
    assert model_scope(Config(dict(model=dict(type='A')))) == 'mmengine'


def test_hooks_come_and_go():
    before = dict(
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3)),
        custom_hooks=[dict(type='EMAHook')],
    )
    cfg = add_default_hooks(stock(**copy.deepcopy(before)))
    assert cfg.default_hooks == dict(
        checkpoint=dict(type='mmkd.AtomicCheckpointHook', interval=3),
        distiller_state=dict(type='mmkd.DistillerStateHook'),
    )
    cfg.default_hooks.plan = dict(type='mmkd.DistillScheduleHook', losses={})
    cfg.custom_hooks.append(dict(type='mmkd.DistillScheduleHook', losses={}))
    assert student_config(cfg).to_dict() == stock(**before).to_dict()


def test_a_config_without_hooks_saves_as_the_runner_would():
    hooks = add_default_hooks(stock()).default_hooks
    assert hooks.checkpoint == dict(type='mmkd.AtomicCheckpointHook', interval=1)


def test_types_of_new_style_configs_are_classes():
    own = dict(checkpoint=dict(type=CheckpointHook, interval=2))
    cfg = add_default_hooks(stock(default_hooks=own))
    assert cfg.default_hooks.checkpoint.type == 'mmkd.AtomicCheckpointHook'
    cfg = stock(default_hooks=dict(state=dict(type=DistillerStateHook)))
    assert student_config(cfg).default_hooks == {}


def test_hooks_that_the_config_chose_stay():
    own = dict(checkpoint=dict(type='MyHook'), distiller_state=dict(type='MyState'))
    assert add_default_hooks(stock(default_hooks=own)).default_hooks == own
    off = dict(checkpoint=None, distiller_state=None)
    # What the Runner takes None for is its own hooks.
    hooks = add_default_hooks(stock(default_hooks=off)).default_hooks
    assert hooks == dict(checkpoint=None)


def test_imports_stay_where_the_student_is_made_of_mmkd():
    cfg = distill_config(stock(), 'teacher.py', LOSSES)
    cfg.model.student.neck = [dict(type='FPN'), dict(type='mmkd.FeatureImitationNeck')]
    assert student_config(cfg).custom_imports == dict(imports=['mmkd'])


@pytest.mark.parametrize(
    ('imports', 'left'),
    [('mmkd', None), (['mmkd.losses', 'a'], ['a']), (['mmkdx'], ['mmkdx'])],
)
def test_imports_of_mmkd_go(imports, left):
    cfg = student_config(stock(custom_imports=dict(imports=imports)))
    assert cfg.get('custom_imports') == (left and dict(imports=left))


def test_the_preprocessor_moves_into_the_model():
    top, own = dict(type='Top'), dict(type='Own')
    cfg = distill_config(stock(data_preprocessor=top), 'teacher.py', LOSSES)
    assert student_config(cfg).model.data_preprocessor == top
    cfg.model.data_preprocessor = dict(type='Wrapper')
    assert student_config(cfg).model.data_preprocessor == dict(type='Wrapper')
    cfg.model.student.data_preprocessor = own
    assert student_config(cfg).model.data_preprocessor == own


def test_a_stock_config_is_its_own_student():
    assert student_config(stock()).to_dict() == stock().to_dict()


@pytest.mark.parametrize(
    ('teacher', 'long'),
    [
        ('mmdet::a/b.py', dict(config='mmdet::a/b.py')),
        ('a.pth', dict(checkpoint='a.pth')),
        (dict(config='a.py', device='cpu'), dict(config='a.py', device='cpu')),
    ],
)
def test_the_long_form_of_a_teacher(teacher, long):
    assert teacher_options(teacher) == long


def test_what_belongs_to_a_run():
    cfg = stock(work_dir='/me', resume=True, load_from='/me/a.pth', launcher='pytorch')
    left = stock(resume=False, load_from=None, launcher='none')
    assert without_run(cfg).to_dict() == left.to_dict()
    assert without_run(stock()).to_dict() == stock().to_dict()
