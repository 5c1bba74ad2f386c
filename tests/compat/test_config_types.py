"""A config out of a file builds registered classes only."""

import sys

import pytest
import torch
from mmengine.registry import MODELS

from mmkd.compat.config_types import require_registered_types
from mmkd.config import load_config


@pytest.mark.parametrize(
    'name',
    [
        'os.system',
        'subprocess.check_output',
        'torch.load',
        'torch.hub.load',
        'mmengine.rmtree',
        'mmengine.Config.fromfile',
        'mmengine.fileio.io.dump',
        'mmkd.compat.checkpoint.load_file',
        'antigravity',
        'os',
        "__import__('os')",
        "nms if open('x', 'w') else nms",
        'nms(',
        '',
    ],
)
@pytest.mark.parametrize('nest', [dict, lambda **c: dict(a=[(dict(b=c),)])])
def test_names_that_are_not_registered_are_refused(name, nest):
    with pytest.raises(ValueError, match='is not the name of a registered class') as e:
        require_registered_types(nest(type=name))
    assert repr(name) in str(e.value)
    assert 'antigravity' not in sys.modules


def test_what_it_refuses_a_registry_would_call(tmp_path):
    (tmp_path / 'full').mkdir()
    cfg = dict(type='mmengine.rmtree', dir_path=str(tmp_path / 'full'))
    with pytest.raises(ValueError, match='mmengine.rmtree'):
        require_registered_types(cfg)
    assert (tmp_path / 'full').exists()
    MODELS.build(cfg)
    assert not (tmp_path / 'full').exists()


def test_registered_names_pass():
    require_registered_types(
        dict(
            type='mmkd.DistillDetector',
            student=dict(type='mmengine.ImgDataPreprocessor'),
            full=dict(
                type='mmengine.model.base_model.data_preprocessor.ImgDataPreprocessor'
            ),
            act=dict(type='ReLU'),
            nms=dict(type='nms', iou_threshold=0.6),
            value=dict(type=torch.nn.ReLU),
            number=dict(type=3),
        )
    )


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    ],
)
def test_stock_models_pass(name):
    pytest.importorskip(name.split('::')[0])
    require_registered_types(load_config(name).model)
