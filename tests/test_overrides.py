"""Overrides reach what the user means."""

import pytest
from mmengine.config import Config

from mmkd.config import distill_config
from mmkd.overrides import merge_options, use_data_root


def stock() -> Config:
    dataset = dict(data_root='data/coco/', ann_file='train.json')
    return Config(
        dict(
            model=dict(type='GFL', backbone=dict(depth=50), stages=[dict(n=1)]),
            data_root='data/coco/',
            train_dataloader=dict(dataset=dict(type='Repeat', dataset=dataset)),
            val_evaluator=[dict(ann_file='data/coco/val.json'), dict(metric='bbox')],
            default_scope='mmdet',
        )
    )


def distilled(teacher='mmdet::a/b.py') -> Config:
    losses = dict(loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'))
    return distill_config(stock(), teacher, losses)


@pytest.mark.parametrize(
    ('key', 'where'),
    [
        ('model.backbone.depth', 'model.student.backbone.depth'),
        ('model.student.backbone.depth', 'model.student.backbone.depth'),
        ('model.stages.0.n', 'model.student.stages.0.n'),
        ('model.new', 'model.student.new'),
        ('model.losses.loss_hint.at', 'model.losses.loss_hint.at'),
        ('model.type', 'model.type'),
        ('model.teacher', 'model.teacher'),
        ('default_scope', 'default_scope'),
    ],
)
def test_stock_keys_are_the_students(key, where):
    cfg = merge_options(distilled(), {key: 7})
    value = cfg
    for part in where.split('.'):
        value = value[int(part)] if part.isdigit() else value[part]
    assert value == 7
    expected = distilled()
    expected.merge_from_dict({where: 7})
    assert cfg.to_dict() == expected.to_dict()


def test_keys_that_the_distilled_model_has_itself_stay_there():
    cfg = distilled()
    cfg.model.data_preprocessor = dict(size=1)
    merge_options(cfg, {'model.data_preprocessor.size': 2})
    assert cfg.model.data_preprocessor.size == 2
    assert 'data_preprocessor' not in cfg.model.student


@pytest.mark.parametrize(
    ('teacher', 'expected'),
    [
        ('mmdet::a/b.py', dict(config='mmdet::a/b.py', device='cpu')),
        ('a.pth', dict(checkpoint='a.pth', device='cpu')),
        (dict(config='a.py'), dict(config='a.py', device='cpu')),
    ],
)
def test_a_teacher_by_name_takes_options(teacher, expected):
    cfg = merge_options(distilled(teacher), {'model.teacher.device': 'cpu'})
    assert cfg.model.teacher == expected


def test_a_stock_config_takes_them_as_they_are():
    cfg = merge_options(stock(), {'model.backbone.depth': 18, 'model.teacher': 'x'})
    assert cfg.model.backbone.depth == 18
    assert cfg.model.teacher == 'x'


def test_options_are_left_as_they_were():
    options = {'model.backbone.depth': 18}
    merge_options(distilled(), options)
    assert options == {'model.backbone.depth': 18}


@pytest.mark.parametrize('root', ['/disk/coco/', '/disk/coco'])
def test_a_data_root_reaches_every_path(root):
    cfg = merge_options(stock(), dict(data_root=root))
    assert cfg.data_root == root
    assert cfg.train_dataloader.dataset.dataset.data_root == '/disk/coco/'
    assert cfg.val_evaluator[0].ann_file == '/disk/coco/val.json'
    assert cfg.train_dataloader.dataset.dataset.ann_file == 'train.json'


def test_a_more_special_option_wins_over_the_data_root():
    key = 'train_dataloader.dataset.dataset.data_root'
    cfg = merge_options(stock(), {'data_root': '/disk', key: '/other'})
    assert cfg.train_dataloader.dataset.dataset.data_root == '/other'
    assert cfg.val_evaluator[0].ann_file == '/disk/val.json'


def test_the_folder_of_all_data_sets():
    cfg = stock()
    cfg.others = ('data', 'database/x', 'mydata/x', 'data/a', 3, None, ['data/b/'])
    use_data_root(cfg, '/disk/')
    assert cfg.data_root == '/disk/coco/'
    assert cfg.val_evaluator[0].ann_file == '/disk/coco/val.json'
    assert tuple(cfg.others) == (
        '/disk', 'database/x', 'mydata/x', '/disk/a', 3, None, ['/disk/b/']
    )  # fmt: skip


@pytest.mark.parametrize('root', [None, ''])
def test_no_folder_changes_nothing(root):
    assert use_data_root(stock(), root).to_dict() == stock().to_dict()


@pytest.mark.parametrize('taught', [False, True])
def test_options_reach_the_model_of_a_netaug(taught):
    stock = dict(type='GFL', backbone=dict(depth=50), test_cfg=dict(score_thr=0.05))
    model = dict(type='mmkd.NetAug', model=stock, aug_weight=1.0)
    if taught:
        model = dict(type='mmkd.Distill', student=model, teacher='a.py', losses={})
    cfg = Config(dict(model=model))
    options = {'model.backbone.depth': 18, 'model.test_cfg.score_thr': 0.5}
    merge_options(cfg, {**options, 'model.expand': (1, 2), 'model.aug_weight': 0.5})
    own = cfg.model.student if taught else cfg.model
    assert own.model.backbone.depth == 18
    assert own.model.test_cfg.score_thr == 0.5
    assert (own.aug_weight, tuple(own.expand)) == (0.5, (1, 2))
    assert own.keys() == {'type', 'model', 'aug_weight', 'expand'}


def test_a_gans_fine_tuning_has_dotted_keys():
    cfg = Config(dict(model=dict(type='mmkd.GANCompression')))
    told = {'finetune.train_cfg.max_iters': 6, 'finetune.load_from': None}
    merge_options(cfg, told)
    merge_options(cfg, {'finetune.train_cfg.max_iters': 7, 'log_level': 'INFO'})
    assert cfg.finetune == {'train_cfg.max_iters': 7, 'load_from': None}
    assert cfg.log_level == 'INFO'
    assert merge_options(cfg, dict(finetune=None)).finetune is None
