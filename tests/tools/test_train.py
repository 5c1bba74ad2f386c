"""Real runs of tools/train.py, compared with stock training bit for bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from tool_runs import ROOT, call_tool, checkpoint, same

from mmkd.config import method_names


def scalars(folder) -> list[dict]:
    (path,) = folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_checkpoints_and_logs_every_term(hint_run):
    assert (hint_run / 'last_checkpoint').read_text() == str(hint_run / 'epoch_2.pth')
    steps = [line for line in scalars(hint_run) if 'loss' in line]
    assert len(steps) == 8
    for step in steps:
        assert step['loss_hint'] > 0
        parts = (value for key, value in step.items() if key.startswith('loss_'))
        assert step['loss'] == pytest.approx(sum(parts), abs=1e-5)


def test_the_checkpoint_is_the_stock_students(hint_run):
    path = hint_run / 'student_config.py'
    assert 'mmkd' not in path.read_text()
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert type(model) is MODELS.get('mmdet.GFL')
    model.load_state_dict(
        checkpoint(hint_run / 'epoch_2.pth')['state_dict'], strict=True
    )


def test_student_config_is_for_other_machines_and_runs(hint_run, place):
    cfg = Config.fromfile(hint_run / 'student_config.py')
    assert 'work_dir' not in cfg
    assert (cfg.resume, cfg.load_from, cfg.launcher) == (False, None, 'none')
    assert cfg.data_root == f'{place}/big_disk/digits/'
    assert cfg.default_hooks.checkpoint.type == 'CheckpointHook'
    assert 'distiller_state' not in cfg.default_hooks


def resumed(work_dir, place, *arguments) -> dict:
    done = call_tool(
        'train', place / 'hint.py', '--work-dir', work_dir, '--seed', 3, *arguments
    )
    assert done.code == 0, done.err
    return checkpoint(work_dir / 'epoch_2.pth')


def assert_same_run(one: dict, other: dict) -> None:
    assert same(one['state_dict'], other['state_dict'])
    assert same(one['distiller']['state_dict'], other['distiller']['state_dict'])
    moments = [state['optimizer']['state'] for state in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    for index, entry in moments[0].items():
        assert torch.equal(
            entry['momentum_buffer'], moments[1][index]['momentum_buffer']
        )


def test_resume_by_path_ends_where_the_whole_run_does(hint_run, place, tmp_path):
    state = resumed(tmp_path, place, '--resume', hint_run / 'epoch_1.pth')
    assert not (tmp_path / 'epoch_1.pth').exists()
    assert_same_run(state, checkpoint(hint_run / 'epoch_2.pth'))


def test_resume_finds_the_newest_of_the_work_directory(hint_run, place, tmp_path):
    shutil.copy(hint_run / 'epoch_1.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    state = resumed(tmp_path, place, '--resume')
    assert len([line for line in scalars(tmp_path) if 'loss' in line]) == 4
    assert_same_run(state, checkpoint(hint_run / 'epoch_2.pth'))


def test_teacher_and_method_do_what_the_config_does(hint_run, place, tmp_path):
    done = call_tool(
        'train', place / 'student.py', '--teacher', place / 'teacher.pth', '--method',
        'hint', '--seed', 3, '--resume', '--work-dir', tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert_same_run(
        checkpoint(tmp_path / 'epoch_2.pth'), checkpoint(hint_run / 'epoch_2.pth')
    )


def test_no_distill_is_stock_training(hint_run, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_epoch = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9}
    options = [f'{key}={value}' for key, value in one_epoch.items()]
    # The teacher's file is not needed.
    options.append('model.teacher.checkpoint=gone.pth')
    done = call_tool(
        'train',
        place / 'hint.py',
        '--no-distill',
        '--seed',
        3,
        '--cfg-options',
        *options,
    )
    assert done.code == 0, done.err
    ours = checkpoint(tmp_path / 'work_dirs' / 'hint_no-distill' / 'epoch_1.pth')

    cfg = Config.fromfile(place / 'student.py')
    cfg.merge_from_dict(one_epoch)
    for holder in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
        holder.data_root = f'{place}/big_disk/digits/'
    cfg.val_evaluator.ann_file = f'{place}/big_disk/digits/annotations/val.json'
    cfg.test_evaluator = cfg.val_evaluator
    cfg.work_dir, cfg.randomness = 'stock', dict(seed=3)
    Runner.from_cfg(cfg).train()

    stock = checkpoint(tmp_path / 'stock' / 'epoch_1.pth')
    assert same(ours['state_dict'], stock['state_dict'])
    distilled = checkpoint(hint_run / 'epoch_1.pth')
    assert not same(ours['state_dict'], distilled['state_dict'])


def test_the_seed_is_an_argument(hint_run, place, tmp_path):
    done = call_tool(
        'train', place / 'hint.py', '--seed', 4, '--work-dir', tmp_path,
        '--auto-scale-lr', '--cfg-options', 'train_cfg.max_epochs=1',
        'train_cfg.val_interval=9', 'optim_wrapper.optimizer.lr=0.08',
    )  # fmt: skip
    assert done.code == 0, done.err
    other, first = checkpoint(tmp_path / 'epoch_1.pth'), hint_run / 'epoch_1.pth'
    assert other['meta']['seed'] == 4
    assert not same(other['state_dict'], checkpoint(first)['state_dict'])
    # The stock config's rate is meant for 16 pictures, here are two.
    assert other['optimizer']['param_groups'][0]['lr'] == pytest.approx(0.08 * 2 / 16)
    assert checkpoint(first)['optimizer']['param_groups'][0]['lr'] == 0.01


def test_a_segmentor_whose_preprocessor_the_runner_hands_over(seg_run):
    steps = [line for line in scalars(seg_run) if 'loss' in line]
    assert len(steps) == 4
    assert all(step['loss_cwd'] > 0 for step in steps)
    cfg = Config.fromfile(seg_run / 'student_config.py')
    assert cfg.model.data_preprocessor == cfg.data_preprocessor  # for `init_model`
    assert cfg.data_preprocessor.size == (64, 64)
    state = checkpoint(seg_run / 'iter_4.pth')
    assert {key.partition('.')[0] for key in state['state_dict']} == {
        'backbone',
        'decode_head',
    }


def test_a_zoo_name_with_options_for_whatever_it_says(place, tmp_path):
    """Cityscapes' PSPNet on digits, changed on the command line alone."""
    options = [
        'model.pretrained=None',
        'model.backbone.base_channels=8',
        'model.backbone.stem_channels=8',
        'model.backbone.norm_cfg.type=BN',
        'model.decode_head.in_channels=64',
        'model.decode_head.channels=16',
        'model.decode_head.norm_cfg.type=BN',
        'model.decode_head.num_classes=11',
        'model.auxiliary_head=None',
        'model.data_preprocessor.size=(64,64)',
        'model.losses.loss_cwd.loss_weight=0.5',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.data_root=data/digits/',
        'train_dataloader.dataset.img_suffix=.png',
        'train_dataloader.dataset.seg_map_suffix=.png',
        'train_dataloader.dataset.data_prefix.img_path=train',
        'train_dataloader.dataset.data_prefix.seg_map_path=labels/train',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'val_cfg=None',
        'val_dataloader=None',
        'val_evaluator=None',
        'train_cfg.max_iters=2',
        'default_hooks.logger.interval=1',
    ]
    done = call_tool(
        'train', 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        '--teacher', place / 'seg_teacher.pth', '--method', 'cwd',
        '--work-dir', tmp_path, '--cfg-options', *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    steps = scalars(tmp_path)
    assert len(steps) == 2
    assert all(step['loss_cwd'] > 0 for step in steps)
    assert (tmp_path / 'iter_2.pth').is_file()


def test_two_processes(place, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'torch.distributed.run', '--standalone'),
            *('--nproc_per_node=2', Path(__file__).with_name('cpu_launch.py')),
            *(place / 'hint.py', '--launcher', 'pytorch', '--work-dir', tmp_path),
            *(
                '--cfg-options',
                'env_cfg.dist_cfg.backend=gloo',
                'train_cfg.max_epochs=1',
            ),
            'model_wrapper_cfg.type=MMDistributedDataParallel',
            'model_wrapper_cfg.device_ids=None',
        ],
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Eight pictures, two for each process.
    steps = [line for line in scalars(tmp_path) if 'loss' in line]
    assert len(steps) == 2
    assert all(step['loss_hint'] > 0 for step in steps)
    assert (tmp_path / 'student_config.py').is_file()
    state = checkpoint(tmp_path / 'epoch_1.pth')
    assert len(state['distiller']['rng']) == 2
    cfg = Config.fromfile(tmp_path / 'student_config.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        MODELS.build(cfg.model).load_state_dict(state['state_dict'], strict=True)
    assert cfg.launcher == 'none'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mixed precision needs a GPU')
def test_amp(place, tmp_path):
    done = call_tool(
        'train', place / 'hint.py', '--amp', '--work-dir', tmp_path,
        '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9',
    )  # fmt: skip
    assert done.code == 0, done.err
    state = checkpoint(tmp_path / 'epoch_1.pth')
    assert 'loss_scaler' in state['optimizer']
    assert all(step['loss_hint'] > 0 for step in scalars(tmp_path))


def test_help_names_every_preset():
    done = call_tool('train', '--help')
    assert done.code == 0
    names = done.out.partition('preset of losses: ')[2].split('--no-distill')[0]
    assert names.replace(',', ' ').split()[: len(method_names())] == method_names()
