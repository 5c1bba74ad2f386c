"""Every shipped config: read, written, built, and trained for one step."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from tiny_models import (
    classification_batch,
    detection_batch,
    is_classifier,
    segmentation_batch,
    tiny_gfl,
    tiny_pspnet,
    tiny_two_stage,
    with_masks,
)
from toy import leave_unformatted

from mmkd.config import (
    config_root,
    distill_config,
    is_distilled,
    load_config,
    method_losses,
    method_names,
    model_scope,
    student_config,
    teacher_options,
)
from mmkd.overrides import merge_options
from mmkd.training import default_work_dir, train_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = config_root()
#: Folders that begin with an underscore hold parts of configs. Classifiers need
#: MMPretrain, which is no requirement.
PATHS = [
    path.relative_to(ROOT)
    for path in sorted(ROOT.glob('**/*.py'))
    if not any(part.startswith('_') for part in path.relative_to(ROOT).parts)
    and (find_spec('mmpretrain') or not is_classifier(path))
    # Of texts and of pictures: tests/text/test_text_configs.py, and
    # tests/gan/test_gan_recipes.py.
    and path.parent.name != 'mobilebert'
    and not path.stem.startswith(('pix2pix_', 'cyclegan_', 'gan-compression_'))
]

every_config = pytest.mark.parametrize('path', PATHS, ids=str)


@functools.cache
def shipped(path: Path) -> Config:
    return Config.fromfile(ROOT / path)


def random_teacher(teacher: object) -> dict:
    """The same network without its file."""
    config = load_config(teacher_options(teacher)['config'])
    return dict(config=config, checkpoint=None, allow_random=True)


def ready(path: Path) -> Config:
    """A config that needs no files, for small pictures."""
    cfg = train_config(str(ROOT / path))
    if is_distilled(cfg):
        cfg.model.teacher = random_teacher(cfg.model.teacher)
    if 'teacher_ckpt' in cfg.model:  # MMDetection's own distiller
        cfg.model.teacher_config = str(ROOT.parent / cfg.model.teacher_config)
        cfg.model.teacher_ckpt = None
    if model_scope(cfg) == 'mmseg':
        merge_options(cfg, {'model.data_preprocessor.size': (64, 64)})
    return cfg


def built(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def batch_for(model: torch.nn.Module, scope: str) -> dict:
    if scope == 'mmseg':
        return segmentation_batch()
    if scope == 'mmpretrain':
        return classification_batch()
    # RTMDet's assigner would take masks, as no data set hands them to a detector.
    batch = detection_batch()
    return with_masks(batch) if model.with_mask else batch


def trained_one_step(cfg: Config) -> tuple[torch.nn.Module, dict]:
    """The model after a step of the config's own optimizer, and what it logged."""
    model = built(cfg)
    model.train()  # MMDetection's distiller returns nothing
    scope = model_scope(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    reached = set()
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.register_hook(lambda _, name=name: reached.add(name))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # What a Runner says to YOLOX's preprocessor.
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 0)
    try:
        logged = model.train_step(batch_for(model, scope), optimizer)
    finally:
        hub.pop_info('iter')
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    # ReLUs that nothing passes and frozen stages stay; most of the rest moves.
    learnable = sum(p.requires_grad for p in model.parameters())
    assert len(moved) > learnable / 2
    # Of several processes, each would wait for those that no loss reaches.
    missed = {n for n, p in model.named_parameters() if p.requires_grad} - reached
    assert not missed or cfg.get('find_unused_parameters'), missed
    return model, {name: value.item() for name, value in logged.items()}


def assert_finite(values) -> None:
    assert torch.tensor(list(values)).isfinite().all()


def assert_on(logged, terms) -> None:
    """Every term is worth something; what a critic says has no sign."""
    for name in terms:
        assert logged[name] > 0 or (name == 'loss_holistic' and logged[name] < 0)


@every_config
def test_parses_dumps_and_reloads(path, tmp_path, monkeypatch):
    leave_unformatted(monkeypatch.setattr)
    cfg = shipped(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@every_config
def test_is_a_base_under_its_name(path, tmp_path):
    (tmp_path / 'user.py').write_text(f"_base_ = 'mmkd::{path.as_posix()}'\n")
    assert Config.fromfile(tmp_path / 'user.py').to_dict() == shipped(path).to_dict()
    assert load_config(f'mmkd::{path.as_posix()}').to_dict() == shipped(path).to_dict()


@every_config
def test_trains(path):
    cfg = ready(path)
    model, logged = trained_one_step(cfg)
    assert_finite(logged.values())
    stock = built(student_config(cfg))
    if is_distilled(cfg):
        assert isinstance(model, type(stock))
        terms = cfg.model.losses
        assert terms
        assert_on(logged, terms)
    stock.load_state_dict(model.state_dict(), strict=True)
    assert list(model.state_dict()) == list(stock.state_dict())


@every_config
def test_pipelines_build(path):
    cfg = shipped(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for name in ('train', 'val', 'test'):
            datasets = [cfg[f'{name}_dataloader'].dataset]
            for dataset in datasets:  # repeated and joined ones hold others
                datasets += dataset.get('datasets', [])
                datasets += [dataset.dataset] if 'dataset' in dataset else []
            steps = [s for dataset in datasets for s in dataset.get('pipeline', [])]
            assert steps
            assert all(callable(TRANSFORMS.build(step)) for step in steps)


@pytest.mark.parametrize(
    'path', [path for path in PATHS if is_distilled(shipped(path))], ids=str
)
def test_the_teacher_has_weights(path):
    """In the zoo, or where the command that trains it leaves them."""
    teacher = teacher_options(shipped(path).model.teacher)
    config = load_config(teacher['config'])
    if 'checkpoint' not in teacher:
        assert config.model_path.startswith('https://')
    elif 'demo' not in path.parts:  # has a work directory of its own
        loop = config.train_cfg
        unit = 'epoch' if 'max_epochs' in loop else 'iter'
        last = f'{unit}_{loop[f"max_{unit}s"]}.pth'
        assert teacher['checkpoint'] == f'{default_work_dir(teacher["config"])}/{last}'


@pytest.mark.parametrize(
    'path',
    [p for p in PATHS if is_distilled(shipped(p)) and p.parts[0] != 'demo'],
    ids=str,
)
def test_the_folder_tells_about_it(path):
    assert f'`{path.name}`' in (ROOT / path.parent / 'README.md').read_text()


def test_the_shortest_config():
    lines = (
        (ROOT / 'hint' / 'hint_gfl_r50_gfl_r101_1x_coco.py').read_text().splitlines()
    )
    assert len(lines) <= 12


def test_fragments_are_left_out_and_nothing_else():
    files = {path.relative_to(ROOT) for path in ROOT.glob('**/*.py')}
    left_out = files - set(PATHS)
    assert {'_base_', '_methods_'} <= {path.parts[0] for path in left_out}
    assert {path.parts[0] for path in PATHS} >= {
        'hint',
        'cwd',
        'ld',
        'chen2017',
        'skds',
        'demo',
    }


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('method', method_names())
def test_every_preset_fits_stock_models(method, scope):
    try:
        losses = method_losses(method, scope)
    except ValueError as error:
        pytest.skip(str(error))
    tiny = dict(mmdet=tiny_gfl, mmseg=tiny_pspnet)[scope]
    if method in ('chen2017', 'dkd', 'dist') and scope == 'mmdet':  # two stages
        tiny = tiny_two_stage
    if method == 'crosskd':  # behind the third convolution
        tiny = functools.partial(tiny_gfl, bbox_head=dict(stacked_convs=4))
    teacher = dict(config=tiny(24), checkpoint=None, allow_random=True)
    cfg = distill_config(tiny(16), teacher, losses)
    _, logged = trained_one_step(cfg)
    assert_finite(logged.values())
    assert_on(logged, losses)


@pytest.mark.parametrize('method', ['hint', 'cwd'])
def test_these_presets_are_for_both_libraries(method):
    assert method_losses(method, 'mmdet').keys() == {f'loss_{method}'}
    assert method_losses(method, 'mmseg').keys() == {f'loss_{method}'}
