"""Shipped configs of GAN Compression: read, made small, built, trained."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from gan_toy import OPTIMIZERS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmengine.runner import Runner
from test_label_pictures import META, written
from toy import leave_unformatted, short_and_repeatable  # noqa: F401

import mmkd
from mmkd.cli import build_runner
from mmkd.config import config_root, load_config, student_config
from mmkd.gan.settings import Settings
from mmkd.gan.widths import Widths, macs
from mmkd.training import default_work_dir, train_config

FOLDER = config_root() / 'gan_compression'
PATHS = sorted(FOLDER.glob('*.py'))
STUDENTS = [path for path in PATHS if path.stem.startswith('gan-compression_')]
#: Epochs, or iterations, of the constant rate and of the decay.
SCHEDULES = {
    'pix2pix_resnet_edges2shoes': (5, 15),
    'pix2pix_resnet_cityscapes': (100, 150),
    'pix2pix_resnet_map2sat': (100, 200),
    'cyclegan_resnet_horse2zebra': (100, 100),
    'pix2pix_resnet_facades': (1500, 1500),
    'pix2pix_mobile-resnet_facades': (1000, 1000),
    'pix2pix_resnet_camvid': (1500, 1500),
    'gan-compression_pix2pix_resnet_edges2shoes': (10, 30),
    'gan-compression_pix2pix_resnet_cityscapes': (200, 300),
    'gan-compression_pix2pix_resnet_map2sat': (200, 400),
    'gan-compression_cyclegan_resnet_horse2zebra': (200, 200),
    'gan-compression_pix2pix_resnet_facades': (2000, 2000),
    'gan-compression_pix2pix_resnet_camvid': (2000, 2000),
}
NARROW = {
    'model.generator.ngf': 4,
    'model.generator.num_blocks': 3,
    'model.discriminator.ndf': 2,
    'model.discriminator.num_layers': 1,
}

every_config = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
every_student = pytest.mark.parametrize('path', STUDENTS, ids=lambda path: path.stem)


def narrow(path: Path, **options) -> Config:
    """A config of few channels, its teacher with random weights."""
    if path not in STUDENTS:
        return train_config(str(path), options={**NARROW, **options})
    small = {key: NARROW[key] for key in list(NARROW)[:2]}
    cfg = train_config(str(path), options={**small, **options})
    assert max(cfg.model.generator.pop('choices', [[32]])[0]) in (32, 64)
    teacher = load_config(cfg.model.teacher.config)
    teacher.merge_from_dict(NARROW)
    cfg.model.teacher = dict(config=teacher, checkpoint=None, allow_random=True)
    return cfg


def test_every_recipe_has_its_schedule():
    assert {path.stem for path in PATHS} == SCHEDULES.keys()
    assert len(STUDENTS) == 6


@every_config
def test_parses_dumps_and_is_a_base(path, tmp_path, monkeypatch):
    leave_unformatted(monkeypatch.setattr)
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    name = f'mmkd::gan_compression/{path.name}'
    (tmp_path / 'user.py').write_text(f'_base_ = {name!r}\n')
    assert Config.fromfile(tmp_path / 'user.py').to_dict() == cfg.to_dict()
    assert load_config(name).to_dict() == cfg.to_dict()


@every_config
def test_builds_and_trains(path):
    cfg = narrow(path)
    model = MODELS.build(cfg.model).train()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 2, 3, 32, 32), generator=generator).byte()
    data = dict(inputs=dict(source=list(pictures[0]), target=list(pictures[1])))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logged = model.train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert torch.tensor([value.item() for value in logged.values()]).isfinite().all()
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2
    assert any(name.startswith('discriminator') for name in moved)


@every_config
def test_the_generator_is_as_large_as_the_paper_says(path):
    cfg = Config.fromfile(path)
    generator = MODELS.build(cfg.model.generator)
    small = cfg.model.generator.get('ngf', 64) == 32
    assert generator.channels == ((32,) if small else (64,)) * 8
    weights = sum(p.numel() for p in generator.parameters()) / 1e6
    if path not in STUDENTS and not small:
        assert round(weights, 1) == 11.4
        assert round(generator.macs(cfg.size) / 1e9, 1) == 56.8
    with_pairs = cfg.model.type != 'mmkd.CycleGAN' and cfg.model.get('paired', True)
    assert cfg.model.gan_mode == ('hinge' if with_pairs else 'lsgan')


@every_config
def test_transforms_and_data_sets_are_known(path):
    cfg = Config.fromfile(path)
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        assert DATASETS.get(dataset.type) is not None
        assert all(callable(TRANSFORMS.build(step)) for step in dataset.pipeline)
        resize = [s for s in dataset.pipeline if s.type == 'mmkd.ChangePictures'][0]
        last = resize.steps[-2] if name == 'train' else resize.steps[-1]
        assert tuple(last['size']) == cfg.size
    assert isinstance(cfg.val_evaluator, list)
    assert all(METRICS.get(one.type) is not None for one in cfg.val_evaluator)


@every_student
def test_the_teacher_is_where_its_training_leaves_it(path):
    teacher = load_config(str(path)).model.teacher
    loop = load_config(teacher.config).train_cfg
    unit = 'epoch' if 'max_epochs' in loop else 'iter'
    last = f'{unit}_{loop[f"max_{unit}s"]}.pth'
    assert teacher.checkpoint == f'{default_work_dir(teacher.config)}/{last}'
    assert path.stem == f'gan-compression_{Path(teacher.config).stem}'


@every_student
def test_the_search_has_a_budget_and_a_metric_that_is_logged(path):
    cfg = load_config(str(path))
    settings = Settings(**cfg.search)
    supernet = MODELS.build(cfg.model.generator)
    ends = [
        macs(Widths.of([choose(part) for part in supernet.choices], 9), cfg.size)
        for choose in (min, max)
    ]
    assert ends[0] < settings.budget < ends[1] / 3
    logged = set()
    for one in cfg.val_evaluator:
        proxy = 'proxy_' if one.get('features') else ''
        names = one.get('metric', ['mIoU'])
        logged |= {f'pictures/{proxy * (name == "fid")}{name}' for name in names}
    assert settings.metric in logged
    assert settings.sign == (1 if settings.metric == 'pictures/mIoU' else -1)


@every_student
def test_fine_tuning_is_as_long_as_the_teacher_or_shorter(path):
    cfg = load_config(str(path))
    teacher = load_config(cfg.model.teacher.config)
    if 'horse2zebra' in path.stem:
        assert cfg.finetune is None
        return
    cfg.merge_from_dict(cfg.finetune)
    unit = 'max_epochs' if 'max_epochs' in teacher.train_cfg else 'max_iters'
    assert 0 < cfg.train_cfg[unit] <= teacher.train_cfg[unit]
    assert 0 < cfg.param_scheduler.begin < cfg.train_cfg[unit]
    assert cfg.param_scheduler.keys() == teacher.param_scheduler.keys()


def ten_pairs(length=10):
    """An epoch of ten steps at any size of a batch."""
    return [dict(inputs=torch.zeros(1)) for _ in range(length)]


def runner_of(cfg, folder, name) -> Runner:
    """One for the rates: the config's loop, optimizers and schedule."""
    kept = ('train_cfg', 'optim_wrapper', 'param_scheduler', 'default_scope')
    return Runner(
        model=MODELS.build(
            dict(
                type='mmkd.Pix2Pix',
                generator=dict(type='mmkd.ResnetGenerator', ngf=1, num_blocks=1),
                discriminator=dict(
                    type='mmkd.PatchDiscriminator', in_channels=6, ndf=1, num_layers=1
                ),
            )
        ),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=ten_pairs(),
        ),
        experiment_name=name,
        log_level='ERROR',
        **{key: cfg[key] for key in kept},
    )


@every_config
def test_rates_are_constant_and_then_linear_for_both_optimizers(path, tmp_path):
    constant, decay = SCHEDULES[path.stem]
    cfg = Config.fromfile(path)
    runner = runner_of(cfg, tmp_path, f'{path.stem}_{tmp_path.name}')
    runner._train_loop = runner.build_train_loop(cfg.train_cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    schedulers = runner.build_param_scheduler(cfg.param_scheduler)
    per_unit = 1 if 'max_iters' in cfg.train_cfg else 10
    assert runner.max_iters == (constant + decay) * per_unit
    assert schedulers.keys() == {'generator', 'discriminator'}
    for name, optimizer in runner.optim_wrapper.items():
        group = optimizer.optimizer.param_groups[0]
        assert type(optimizer.optimizer) is torch.optim.Adam
        assert group['betas'] == (0.5, 0.999)
        rates = []
        for _ in range(runner.max_iters):
            rates.append(group['lr'])
            optimizer.step()  # without gradients
            for scheduler in schedulers[name]:
                assert not scheduler.by_epoch
                scheduler.step()
        begin = constant * per_unit
        assert rates[: begin + 1] == pytest.approx([2e-4] * (begin + 1))
        steps = np.diff(rates[begin:])
        assert steps == pytest.approx([-2e-4 / (decay * per_unit - 1)] * len(steps))
        assert rates[-1] == pytest.approx(0, abs=1e-9)


def facades(root: Path, count: int = 4) -> str:
    """Pairs of pictures of 32x32, and weights for the features of the proxy."""
    generator = np.random.default_rng(0)
    for part in ('train', 'val'):
        folder = root / 'pairs' / part
        folder.mkdir(parents=True)
        for i in range(count):
            picture = generator.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / f'{i}.jpg'), picture)
    return f'{root}/'


def options_for(root: Path) -> dict:
    """Pictures of 32x32 without a crop, three iterations and no other processes."""
    told = {'data_root': facades(root), 'train_cfg.max_iters': 3}
    told['train_cfg.val_interval'] = 2
    told['param_scheduler.begin'] = 1
    for part in ('train', 'val', 'test'):
        loader = f'{part}_dataloader'
        told[f'{loader}.num_workers'] = 0
        told[f'{loader}.persistent_workers'] = False
        steps = f'{loader}.dataset.pipeline.1.steps'
        told[f'{steps}.0.size'] = (36, 36) if part == 'train' else (32, 32)
    told['train_dataloader.dataset.pipeline.1.steps.1.size'] = (32, 32)
    for name in ('val_evaluator', 'test_evaluator'):
        told[f'{name}.0.features.model.init_cfg'] = None
    return told


def trained(cfg: Config, work_dir: Path) -> Runner:
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}_{work_dir.parent.name}'
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 3
    return runner


def test_facades_from_teacher_to_student(tmp_path):
    """As tools/train.py runs the two configs."""
    pytest.importorskip('torchmetrics', reason='metrics of pictures need it')
    pytest.importorskip('mmdet', reason='the proxy has its MobileNetV2')
    options = options_for(tmp_path)
    teacher = train_config(
        str(FOLDER / 'pix2pix_resnet_facades.py'), options={**options, **NARROW}
    )
    trained(teacher, tmp_path / 'teacher')
    student = train_config(
        str(FOLDER / 'gan-compression_pix2pix_resnet_facades.py'),
        options={
            **options,
            'model.generator.ngf': 4,
            'model.generator.num_blocks': 3,
            'model.teacher.checkpoint': str(tmp_path / 'teacher' / 'iter_3.pth'),
        },
    )
    shrunk = load_config(student.model.teacher.config)
    shrunk.merge_from_dict(NARROW)
    student.model.teacher.config = shrunk.to_dict()
    runner = trained(student, tmp_path / 'student')
    state = torch.load(tmp_path / 'student' / 'iter_3.pth', weights_only=False)
    assert 'adapters.convs.0.weight' in state['state_dict']
    assert not any(key.startswith('teacher') for key in state['state_dict'])
    scalars = next((tmp_path / 'student').glob('*/vis_data/scalars.json')).read_text()
    for name in ('psnr', 'proxy_fid'):
        assert f'"pictures/{name}"' in scalars
    stock = MODELS.build(student_config(student).model)
    stock.load_state_dict(state['state_dict'], strict=False)
    found = runner.model.generator.state_dict()
    for name, value in stock.generator.state_dict().items():
        assert torch.equal(value, found[name]), name


def test_label_maps_as_the_recipes_read_them(tmp_path):
    """CamVid's pipeline on pictures of another data set."""
    pytest.importorskip('mmseg', reason='label maps are read by MMSegmentation')
    cfg = Config.fromfile(FOLDER / 'pix2pix_resnet_camvid.py')
    files = written(tmp_path)
    for part in ('train', 'val'):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert len(dataset.dataset.metainfo.classes) == 11
        dataset.dataset = files
        sample = DATASETS.build(dataset)[0]
        for side in ('source', 'target'):
            assert sample['inputs'][side].shape == (3, 96, 128)
        labels = sample['data_samples']['labels']
        assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
        road = sample['inputs']['source'][:, labels == 0].unique(dim=1)
        assert road.flatten().tolist() == META['palette'][0]
    model = MODELS.build(narrow(FOLDER / 'pix2pix_resnet_camvid.py').model)
    logged = model.train_step(
        pseudo_collate([sample]), build_optim_wrapper(model, OPTIMIZERS)
    )
    assert logged['loss'].isfinite()
    assert isinstance(model, mmkd.Pix2Pix)
