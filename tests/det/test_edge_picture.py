"""The picture of edge distributions shows what the two networks predict."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import build, tiny_gfl

from mmkd.det.edge_picture import draw_edge_distributions, edge_distributions

plt = pytest.importorskip('matplotlib')


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    import cv2

    path = tmp_path_factory.mktemp('pictures') / 'noise.png'
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.fixture(scope='module')
def pair():
    cfg = tiny_gfl()
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 96)
    teacher = dict(
        config=dict(model=cfg.model, default_scope='mmdet'),
        checkpoint=None,
        allow_random=True,
    )
    ld = dict(type='mmkd.LocalizationDistillationLoss')
    model = build(
        dict(
            type='mmkd.DistillDetector',
            student=cfg.model,
            teacher=teacher,
            losses=dict(loss_ld=ld),
        ),
        'mmdet',
    )
    return model.train(), cfg


def test_distributions_of_both_networks(pair, picture):
    model, cfg = pair
    seen = edge_distributions(model, picture, cfg, objects=2)
    assert model.training
    assert seen['image'].shape == (96, 128, 3)
    for side in ('student', 'teacher'):
        assert seen[side].shape == (2, 4, 17)
        torch.testing.assert_close(seen[side].sum(2), torch.ones(2, 4))
    assert not torch.allclose(seen['student'], seen['teacher'])
    # The student's boxes are the expectations of what is drawn.
    expected = (seen['student'] * seen['pixels'][:, None]).sum(2)
    boxes = seen['boxes']
    sides = torch.stack(
        [expected[:, 0] + expected[:, 2], expected[:, 1] + expected[:, 3]]
    )
    torch.testing.assert_close((boxes[:, 2:] - boxes[:, :2]).T, sides)


def test_the_picture_is_written(pair, picture, tmp_path):
    model, cfg = pair
    seen = edge_distributions(model, picture, cfg, objects=2)
    path = draw_edge_distributions(seen, tmp_path / 'new' / 'edges.png')
    assert path.read_bytes().startswith(b'\x89PNG')
    nothing = {
        key: value[:0] if key != 'image' else value
        for key, value in copy.copy(seen).items()
    }
    draw_edge_distributions(nothing, tmp_path / 'none.png')


def test_a_missing_picture_is_named(pair, tmp_path):
    model, cfg = pair
    with pytest.raises(FileNotFoundError, match=r'none\.jpg'):
        edge_distributions(model, tmp_path / 'none.jpg', cfg)


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_colours_are_those_of_the_picture(pair, tmp_path, bgr_to_rgb):
    import cv2

    model, cfg = pair
    red = np.zeros((96, 128, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    cv2.imwrite(str(tmp_path / 'red.png'), red)
    model = copy.deepcopy(model)
    model.data_preprocessor._channel_conversion = bgr_to_rgb
    seen = edge_distributions(model, tmp_path / 'red.png', cfg, objects=1)
    assert seen['image'][5, 5].tolist() == [255, 0, 0]
