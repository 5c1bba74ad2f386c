"""Teachers of the stock libraries: the zoo, pretrained trunks, other scopes."""

import socket

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny_models import tiny_gfl, tiny_pspnet

from mmkd.teacher import build_teacher


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No name resolves, and nothing lies in the folder of downloaded weights."""

    def unreachable(*args, **kwargs):
        raise socket.gaierror('Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    return tmp_path / 'hub' / 'checkpoints'


def test_an_offline_zoo_says_what_to_put_where(offline):
    pytest.importorskip('mmdet')
    with pytest.raises(ConnectionError) as error:
        build_teacher('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
    name = 'gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth'
    url = 'https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_1x_coco/'
    assert url + name in str(error.value)
    assert f'put it at {offline / name}' in str(error.value)


def test_a_zoo_name_uses_the_file_put_there(offline):
    pytest.importorskip('mmdet')
    name = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
    random_one = build_teacher(dict(config=name, checkpoint=None, allow_random=True))
    offline.mkdir(parents=True)
    state = {k: torch.rand_like(v) if v.is_floating_point() else v
             for k, v in random_one.model.state_dict().items()}  # fmt: skip
    file = 'yolox_tiny_8x8_300e_coco_20211124_171234-b4047906.pth'
    torch.save(dict(state_dict=state), offline / file)
    teacher = build_teacher(name)
    loaded = teacher.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert teacher.source.startswith(f'{name}, https://')


def test_imagenet_weights_are_not_asked_for(offline):
    pytest.importorskip('mmdet')
    cfg = tiny_gfl()
    url = 'torchvision://resnet18'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=url)
    teacher = build_teacher(dict(config=cfg, checkpoint=None, allow_random=True))
    assert 'Pretrained' not in str(teacher.model.backbone.init_cfg)
    assert cfg.model.backbone.init_cfg.checkpoint == url
    assert not offline.exists()


def test_a_stock_detector_round_trip(tmp_path):
    pytest.importorskip('mmdet')
    cfg = tiny_gfl()
    first = build_teacher(dict(config=cfg, checkpoint=None, allow_random=True))
    file = str(tmp_path / 'gfl.pth')
    meta = dict(cfg=cfg.pretty_text, mmengine_version='0.10.7')
    torch.save(dict(meta=meta, state_dict=first.model.state_dict()), file)
    second = build_teacher(file)  # the checkpoint alone
    assert type(second.model).__name__ == 'GFL'
    assert second.digest == first.digest
    assert second.model.data_preprocessor.pad_size_divisor == 32


def test_a_segmentor_teaches_under_the_scope_of_mmdet():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    cfg = tiny_pspnet()
    # As in configs that give it to the Runner, which hands it to the student only.
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    options = dict(config=cfg, checkpoint=None, allow_random=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        teacher = build_teacher(options, scope='mmdet')
    assert type(teacher.model).__module__.startswith('mmseg.')
    assert teacher.model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )


def test_a_config_without_a_scope_takes_the_students():
    pytest.importorskip('mmdet')
    cfg = Config(dict(model=tiny_gfl().model))
    cfg.model.pop('_scope_', None)
    options = dict(config=cfg, checkpoint=None, allow_random=True)
    teacher = build_teacher(options, scope='mmdet')
    assert type(teacher.model).__name__ == 'GFL'
