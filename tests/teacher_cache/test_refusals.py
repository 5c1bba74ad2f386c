"""Caches that are not those of the run, or not what was written: one sentence each."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from small import LD, batch_of, cached, coco, data_of, model_of, pipeline, pspnet_run
from tiny_models import build

from mmkd.cache.build import CacheBuilder
from mmkd.det.static_targets import row_rule
from mmkd.teacher import build_teacher

SHARD = 'shard-00001.safetensors'


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the cache of GFL to be damaged."""
    return shutil.copytree(made('gfl').cache, tmp_path / 'cache')


def refuse(folder, match: str, **beside) -> None:
    with pytest.raises(ValueError, match=match):
        build_teacher(dict(cache=str(folder), **beside))


def test_no_cache_a_foreign_folder_and_another_format(copied, tmp_path):
    refuse(tmp_path / 'nothing', 'there is no teacher cache at .*cache_teacher.py')
    manifest = copied / 'manifest.json'
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(dict(told, format=99)))
    refuse(copied, 'has format 99')
    manifest.write_text('{"name": "something else"}')
    refuse(copied, 'is not that of a teacher cache')
    manifest.write_text('{"format"')
    refuse(copied, 'manifest.json is damaged')


def test_incomplete_and_truncated_caches(copied):
    path = copied / SHARD
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:size])
        refuse(copied, rf'not complete: 1 of 4 .*{SHARD} \(truncated or damaged\)')
    path.unlink()
    refuse(copied, rf'{SHARD} \(missing\); complete it with python tools/cache_teach')


def test_every_changed_byte_of_a_file_is_noticed(made, copied):
    path = copied / SHARD
    content = path.read_bytes()
    head = 8 + int.from_bytes(content[:8], 'little')
    records = 0
    for place in [*range(8, head, 97), *range(head, len(content), 4001)]:
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ValueError, match='damaged'):  # noqa: PT012
            teacher = build_teacher(dict(cache=str(copied)))
            teacher._open(1).check()
        records += 1
    assert records > 10


def test_a_file_of_another_cache(made, copied):
    here = made('gfl')
    shutil.copy(made('fcos').cache / SHARD, copied / SHARD)
    model = model_of(cached(here.cfg, copied))
    samples = [data_of(here.cfg)[index] for index in range(10)]
    with pytest.raises(ValueError, match='is of another cache than the manifest'):
        model(**batch_of(model, samples), mode='loss')


def test_another_teacher_beside_the_cache(made, copied, tmp_path):
    own = made('gfl').cfg.model.teacher.checkpoint
    assert build_teacher(dict(cache=str(copied), checkpoint=own)).model is None
    other = tmp_path / 'teacher.pth'
    torch.save({}, other)
    refuse(copied, 'of another teacher: its checkpoint is', checkpoint=str(other))
    gone = '/elsewhere/teacher.pth'  # as the own one is called
    assert build_teacher(dict(cache=str(copied), checkpoint=gone)).digest
    refuse(copied, 'another teacher', checkpoint='/elsewhere/other.pth')
    refuse(copied, 'has no option weights', weights='x')


def change(cfg, part: str) -> None:
    """Change what one part of the key is made of."""
    data, student = cfg.train_dataloader.dataset, cfg.model.student
    if part == 'images':
        data.indices = 9
    elif part == 'boxes':
        path = f'{data.data_root}{data.ann_file}'
        told = json.loads(Path(path).read_text())
        told['annotations'][0]['bbox'][2] -= 1
        data.ann_file = 'changed.json'
        with open(f'{data.data_root}changed.json', 'w') as file:
            json.dump(told, file)
    elif part == 'scale':
        data.pipeline[2].scale = (112, 80)
    elif part == 'padding':
        student.data_preprocessor.pad_size_divisor = 64
    elif part == 'mean':
        student.data_preprocessor.mean = [100.0, 110, 120]
    elif part == 'assigner':
        student.train_cfg.assigner.topk = 7
    elif part == 'terms':
        cfg.model.losses.loss_kd.region = 'all'


@pytest.mark.parametrize(
    ('part', 'match'),
    [
        ('images', r'training data changed .*images: 10 there, 9 here'),
        ('boxes', 'training data changed .*samples'),
        (
            'scale',
            r'training pipeline changed .*\[0\]\[2\].scale\[0\]: 96 there, 112 here',
        ),
        (
            'padding',
            "student's data_preprocessor changed .*pad_size_divisor: 32 there, 64 here",
        ),
        ('mean', "student's data_preprocessor changed .*mean"),
        ('assigner', "student's head changed .*assigner.topk: 9 there, 7 here"),
        ('terms', 'terms changed .*it lacks logits of bbox_head in region all'),
    ],
)
def test_a_stale_cache_says_which_part_differs(made, part, match):
    here = made('gfl')
    cfg = cached(here.cfg, here.cache)
    change(cfg, part)
    with pytest.raises(ValueError, match=f'is stale, as the {match}'):
        model_of(cfg)


def test_a_run_may_read_less_than_was_stored(made):
    here = made('gfl')
    cfg = cached(here.cfg, here.cache)
    cfg.model.losses = dict(loss_kd=dict(LD['loss_kd'], loss_weight=3.0))
    model_of(cfg)


def test_a_cache_that_nobody_compared_with_the_data(made):
    here = made('gfl')
    model = model_of(cached(here.cfg, here.cache))
    model.distiller.teacher = build_teacher(dict(cache=str(here.cache)))
    with pytest.raises(RuntimeError, match='was not compared with the training data'):
        model(**batch_of(model, [data_of(here.cfg)[0]]), mode='loss')


REFUSED = {
    'SimOTAAssigner': dict(type='SimOTAAssigner'),
    'TaskAlignedAssigner': dict(type='TaskAlignedAssigner', topk=13),
    'DynamicSoftLabelAssigner': dict(type='DynamicSoftLabelAssigner'),
    'ATSSAssigner with alpha': dict(type='ATSSAssigner', topk=9, alpha=0.8),
}


@pytest.mark.parametrize('name', REFUSED)
def test_assigners_that_look_at_predictions_are_refused_by_name(made, name, tmp_path):
    cfg = copy.deepcopy(made('gfl').cfg)
    cfg.model.student.train_cfg.assigner = REFUSED[name]
    with pytest.raises(ValueError, match=f'positives of GFLHead are chosen by {name}'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')


def test_heads_that_draw_or_choose_their_rows_are_refused(made):
    student = copy.deepcopy(made('retina').cfg.model.student)
    student.train_cfg.sampler = dict(
        type='RandomSampler', num=64, pos_fraction=0.5, neg_pos_ub=-1
    )
    student.bbox_head.type = 'RPNHead'
    student.bbox_head.num_classes = 1
    for key in ('stacked_convs', 'norm_cfg'):
        del student.bbox_head[key]
    head = build(student, 'mmdet').bbox_head
    with pytest.raises(ValueError, match='draws its positives by RandomSampler'):
        row_rule(head)


def test_all_rows_of_a_head_that_counts_padding_are_refused(made, tmp_path):
    cfg = copy.deepcopy(made('fcos').cfg)
    cfg.model.losses.loss_kd.region = 'all'
    with pytest.raises(ValueError, match="region='all' of DistributionalFCOSHead"):
        CacheBuilder(cfg, str(tmp_path), 'cpu')


def test_losses_that_read_everywhere_are_refused_all_at_once(made, tmp_path):
    cfg = copy.deepcopy(made('gfl').cfg)
    cfg.model.losses.loss_hint = dict(type='mmkd.FeatureImitationLoss', at='neck')
    cfg.model.losses.loss_cwd = dict(type='mmkd.ChannelWiseDivergenceLoss', at='neck')
    with pytest.raises(ValueError, match=r'loss_hint: Feature.*loss_cwd: Channel'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')


@pytest.mark.parametrize(
    ('step', 'name'),
    [
        (dict(type='RandomCrop', crop_size=(32, 32)), 'RandomCrop'),
        (dict(type='mmdet.PhotoMetricDistortion'), 'PhotoMetricDistortion'),
        (dict(type='RandomResize', scale=[(9, 9), (99, 99)]), 'RandomResize'),
    ],
)
def test_random_pipelines_are_refused_with_a_remedy(made, step, name, tmp_path):
    here = made('gfl')
    cfg = copy.deepcopy(here.cfg)
    cfg.train_dataloader.dataset = coco(here.folder / 'data', pipeline(step))
    with pytest.raises(ValueError, match=f'pipeline has {name}, .*mmkd.SeededViews'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')


def test_batch_augmentation_and_switched_pipelines_are_refused(made, tmp_path):
    cfg = copy.deepcopy(made('gfl').cfg)
    cfg.custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=1)]
    with pytest.raises(ValueError, match='PipelineSwitchHook exchanges the pipeline'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')
    cfg.custom_hooks = []
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 128))
    cfg.model.student.data_preprocessor.batch_augments = [resize]
    with pytest.raises(ValueError, match='has batch_augments'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')


def test_maps_of_a_student_of_another_stride_are_refused(tmp_path):
    cfg = pspnet_run(tmp_path)
    CacheBuilder(cfg, str(tmp_path / 'cache'), 'cpu').build()
    other = cached(cfg, tmp_path / 'cache')
    model_of(other)
    other.model.student.backbone.strides = (1, 1, 1, 1)
    with pytest.raises(ValueError, match="student's head changed .*strides of decode"):
        model_of(other)


@pytest.mark.parametrize('trap', ['two flips', 'no flip in the meta keys', 'padding'])
def test_different_pictures_of_one_name_are_refused(tmp_path, trap):
    cfg = pspnet_run(tmp_path)
    steps = cfg.train_dataloader.dataset.pipeline
    if trap == 'two flips':
        steps.insert(4, dict(type='RandomFlip', prob=0.5, direction='vertical'))
    elif trap == 'padding':
        steps[2] = dict(type='RandomChoiceResize', scales=[(32, 32), (64, 64)])
        steps.insert(3, dict(type='Pad', size=(64, 64)))
    else:
        steps[-1]['meta_keys'] = ('img_path', 'ori_shape', 'img_shape', 'pad_shape')
    with pytest.raises(ValueError, match='different pictures of image .* calls alike'):
        CacheBuilder(cfg, str(tmp_path / 'cache'), 'cpu').build()


def test_another_network_of_the_same_weights_is_another_cache(made, tmp_path):
    here = made('gfl')
    cfg = copy.deepcopy(here.cfg)
    cfg.model.teacher.config.model.bbox_head.anchor_generator.octave_base_scale = 4
    with pytest.raises(ValueError, match='holds another cache'):
        CacheBuilder(cfg, str(here.cache), 'cpu').build()
