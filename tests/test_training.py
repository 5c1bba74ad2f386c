"""Arguments of the tools become configs of runs."""

import pytest
import torch
from mmengine.config import Config

from mmkd.compat.checkpoint import CheckpointError
from mmkd.config import is_distilled, load_config, method_losses
from mmkd.training import (
    evaluation_config,
    resume_from,
    train_config,
    use_amp,
    use_auto_scale_lr,
    write_student_config,
)

STOCK = """
model = dict(type='GFL', backbone=dict(depth=50))
data_root = 'data/coco/'
default_scope = 'mmdet'
load_from = 'start.pth'
optim_wrapper = dict(type='OptimWrapper')
"""
HINT = """
_base_ = 'stock.py'
custom_imports = dict(imports='mmkd')
model = dict(
    _delete_=True, type='mmkd.DistillDetector', student={{_base_.model}},
    teacher='teacher.py',
    losses=dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck')))
"""


@pytest.fixture(autouse=True)
def _desk(tmp_path, monkeypatch):
    (tmp_path / 'stock.py').write_text(STOCK)
    (tmp_path / 'hint.py').write_text(HINT)
    torch.save(dict(state_dict={}, meta=dict(iter=3)), tmp_path / 'run.pth')
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    (tmp_path / 'damaged.pth').write_bytes(b'PK\x03\x04')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMKD_DATA', raising=False)


def hooks_added(cfg: Config) -> dict:
    return {name: hook['type'] for name, hook in cfg.default_hooks.items()}


def test_a_stock_config_with_a_teacher():
    cfg = train_config('stock.py', 'teacher.py', 'cwd')
    assert cfg.model.type == 'mmkd.DistillDetector'
    assert cfg.model.student == dict(type='GFL', backbone=dict(depth=50))
    assert cfg.model.teacher == 'teacher.py'
    assert cfg.model.losses == method_losses('cwd', 'mmdet')
    assert cfg.work_dir == 'work_dirs/stock_cwd'
    assert hooks_added(cfg) == dict(
        distiller_state='mmkd.DistillerStateHook',
        checkpoint='mmkd.AtomicCheckpointHook',
    )


def test_a_distillation_config():
    cfg = train_config('hint.py')
    assert list(cfg.model.losses) == ['loss_hint']
    assert cfg.work_dir == 'work_dirs/hint'
    other = train_config('hint.py', 'other.pth', 'cwd', work_dir='here')
    assert other.model.teacher == 'other.pth'
    assert list(other.model.losses) == ['loss_cwd']
    assert other.work_dir == 'here'


def test_what_contradicts_itself():
    with pytest.raises(ValueError, match='--method needs --teacher'):
        train_config('stock.py', method='hint')
    with pytest.raises(ValueError, match='--teacher needs --method'):
        train_config('stock.py', 'teacher.py')


@pytest.mark.parametrize(
    'arguments',
    [('hint.py',), ('stock.py', 'teacher.py', 'hint'), ('stock.py',)],
    ids=['config', 'arguments', 'stock'],
)
def test_the_baseline_of_the_same_command(arguments):
    options = {'model.backbone.depth': 18}
    if arguments != ('stock.py',):
        options['model.losses.loss_hint.loss_weight'] = 2
    padded = (*arguments, None, None)[:3]
    cfg = train_config(*padded, distill=False, options=options)
    assert not is_distilled(cfg)
    assert cfg.model == dict(type='GFL', backbone=dict(depth=18))
    # Its hooks are ours: the config that the Runner dumps must import them.
    assert 'mmkd' in cfg.custom_imports['imports']
    assert cfg.work_dir == f'work_dirs/{arguments[0][:-3]}_no-distill'
    # It resumes exactly and saves atomically, too.
    assert len(hooks_added(cfg)) == 2


def test_options_for_the_student_and_for_the_losses():
    options = {
        'model.backbone.depth': 18,
        'model.losses.loss_hint.loss_weight': 2,
        'model.teacher.device': 'cpu',
    }
    for arguments in (('hint.py',), ('stock.py', 'teacher.py', 'hint')):
        model = train_config(*arguments, options=options).model
        assert model.student.backbone.depth == 18
        assert model.losses.loss_hint.loss_weight == 2
        assert model.teacher == dict(config='teacher.py', device='cpu')


def test_a_work_directory_of_the_config():
    assert train_config('hint.py', options=dict(work_dir='own')).work_dir == 'own'


def test_the_zoos_weights_are_not_those_of_the_run():
    pytest.importorskip('mmdet')
    name = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
    assert 'model_path' in load_config(name)
    cfg = train_config(name, 'teacher.py', 'hint')
    assert 'model_path' not in cfg
    assert cfg.work_dir == 'work_dirs/gfl_r50_fpn_1x_coco_hint'


def test_data_are_where_the_environment_says(monkeypatch):
    monkeypatch.setenv('MMKD_DATA', '/disk')
    assert train_config('hint.py').data_root == '/disk/coco/'
    assert evaluation_config('hint.py', 'run.pth').data_root == '/disk/coco/'
    options = dict(data_root='/mine/coco/')
    assert train_config('hint.py', options=options).data_root == '/mine/coco/'


def test_evaluation_is_of_the_student():
    cfg = evaluation_config(
        'hint.py', 'run.pth', {'model.backbone.depth': 18, 'model.teacher': 'gone'}
    )
    assert cfg.model == dict(type='GFL', backbone=dict(depth=18))
    assert (cfg.load_from, cfg.resume) == ('run.pth', False)
    assert cfg.work_dir == 'work_dirs/hint'
    assert evaluation_config('hint.py', 'https://a/b.pth').load_from.endswith('b.pth')


def test_resume_the_named_checkpoint():
    cfg = resume_from(train_config('hint.py'), 'run.pth')
    assert (cfg.load_from, cfg.resume) == ('run.pth', True)


def test_resume_the_newest_checkpoint(tmp_path):
    cfg = train_config('hint.py', work_dir=str(tmp_path))
    resume_from(cfg, 'auto')  # nothing there yet: the run starts as it is configured
    assert (cfg.load_from, cfg.get('resume')) == ('start.pth', None)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'run.pth'))
    resume_from(cfg, 'auto')
    assert (cfg.load_from, cfg.resume) == (str(tmp_path / 'run.pth'), True)


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('none.pth', FileNotFoundError, "'none.pth' does not exist"),
        ('weights.pth', ValueError, 'weights.pth is no checkpoint of a run'),
        ('damaged.pth', CheckpointError, 'damaged.pth cannot be loaded'),
    ],
)
def test_what_nothing_resumes_from(name, error, message):
    with pytest.raises(error, match=message):
        resume_from(train_config('hint.py'), name)


def test_mixed_precision(monkeypatch):
    monkeypatch.setattr('mmkd.training.get_device', lambda: 'cuda')
    wrapper = use_amp(train_config('hint.py')).optim_wrapper
    assert wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    options = {'optim_wrapper.loss_scale': 512.0, 'optim_wrapper.dtype': 'float16'}
    wrapper = use_amp(train_config('hint.py', options=options)).optim_wrapper
    assert (wrapper.loss_scale, wrapper.dtype) == (512.0, 'float16')
    with pytest.raises(ValueError, match='of type OptimWrapper, not Mine'):
        use_amp(train_config('hint.py', options={'optim_wrapper.type': 'Mine'}))


@pytest.mark.parametrize('device', ['cpu', 'mps'])
def test_mixed_precision_needs_a_gpu(monkeypatch, device):
    monkeypatch.setattr('mmkd.training.get_device', lambda: device)
    with pytest.raises(ValueError, match=f'--amp needs a GPU.*{device}'):
        use_amp(train_config('hint.py'))


def test_the_learning_rate_of_a_batch_size():
    options = {'auto_scale_lr.base_batch_size': 16}
    cfg = use_auto_scale_lr(train_config('hint.py', options=options))
    assert cfg.auto_scale_lr == dict(base_batch_size=16, enable=True)
    for missing in ({}, {'auto_scale_lr': None}, {'auto_scale_lr.enable': False}):
        with pytest.raises(ValueError, match=r'auto_scale_lr\.base_batch_size'):
            use_auto_scale_lr(train_config('hint.py', options=missing))


def test_the_students_config_is_written_whole(tmp_path, monkeypatch):
    cfg = train_config('hint.py', work_dir=str(tmp_path / 'run'))
    cfg.resume, cfg.launcher = True, 'pytorch'
    path = write_student_config(cfg)
    assert path == tmp_path / 'run' / 'student_config.py'
    assert [file.name for file in path.parent.iterdir()] == ['student_config.py']
    text = path.read_text()
    assert 'mmkd' not in text
    written = Config.fromfile(path)
    assert written.model == dict(type='GFL', backbone=dict(depth=50))
    assert (written.resume, written.launcher) == (False, 'none')

    def full(*args):
        raise OSError('no space left')

    monkeypatch.setattr('os.replace', full)
    cfg.model.student.backbone.depth = 18
    with pytest.raises(OSError, match='no space'):
        write_student_config(cfg)
    assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ['student_config.py']
