"""Pictures of what segmentors see: the right labels, affinities, and the hook."""

import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_models import build, segmentation_batch, tiny_pspnet

from mmkd.config import distill_config
from mmkd.demo.digits import make_digits
from mmkd.seg.picture import Row, Seen, affinity, draw, look, place_of
from mmkd.seg.picture_hook import SegmentationPictureHook
from mmkd.side_by_side import as_image
from mmkd.training import train_config

pytest.importorskip('skimage')
PALETTE = [[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]]
PAIR = dict(loss_pair=dict(type='mmkd.PairWiseLoss'))


def sample() -> dict:
    raw = segmentation_batch()
    return dict(inputs=raw['inputs'][0], data_samples=raw['data_samples'][0])


@pytest.fixture(scope='module')
def model():
    teacher = build(tiny_pspnet(24).model, 'mmseg', seed=7)
    return build(distill_config(tiny_pspnet(16), teacher, PAIR).model, 'mmseg').train()


def test_the_labels_are_those_the_stock_models_predict(model):
    item = sample()
    row = look(item, dict(student=model))
    assert list(row.seen) == ['student', 'teacher']
    for name, network in [
        ('student', model),
        ('teacher', model.distiller.teacher.model),
    ]:
        data = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            (predicted,) = network.eval().test_step(data)
        expected = predicted.pred_sem_seg.data[0].numpy()
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(row.seen[name].labels, expected)
    np.testing.assert_array_equal(
        row.image, item['inputs'].numpy()[::-1].transpose(1, 2, 0)
    )
    assert (row.truth == 255).sum() == 5 * 64


def test_padding_of_a_test_picture_is_cut_off(model):
    item = sample()
    item['inputs'] = item['inputs'][:, :48, :40]
    data = item['data_samples'].clone()
    labels = data.gt_sem_seg.data[:, :48, :40]
    del data.gt_sem_seg.data
    data.gt_sem_seg.data = labels
    data.set_metainfo(dict(img_shape=(48, 40), ori_shape=(48, 40)))
    item['data_samples'] = data
    stock = model.data_preprocessor.test_cfg
    model.data_preprocessor.test_cfg = dict(size=(64, 64))
    try:
        row = look(item, dict(student=model))
    finally:
        model.data_preprocessor.test_cfg = stock
    for seen in row.seen.values():
        assert seen.labels.shape == row.truth.shape == row.image.shape[:2] == (48, 40)
        assert seen.features.shape[1:] == (6, 5)


def test_models_are_left_as_they_were(model):
    model.train()
    model.backbone.eval()
    flags = [module.training for module in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    look(sample(), dict(student=model))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_affinity_is_a_cosine():
    features = torch.randn(5, 4, 6)
    found = affinity(features, (0.5, 0.9))
    for y in range(4):
        for x in range(6):
            expected = torch.cosine_similarity(features[:, 2, 5], features[:, y, x], 0)
            assert found[y, x] == pytest.approx(expected.item(), abs=1e-6)


def test_the_marked_place_lies_in_the_second_class():
    truth = np.zeros((10, 20), int)
    truth[6:9, 12:18], truth[0, 0] = 3, 2
    truth[:, 19] = 255
    row, column = place_of(truth, 4)
    assert truth[int(row * 10), int(column * 20)] == 3
    assert place_of(np.full((4, 4), 255), 4) == (0.5, 0.5)


def test_the_figure_shows_every_label_map():
    truth = np.array([[0, 1], [2, 255]])
    labels = np.array([[3, 3], [3, 3]])
    features = torch.randn(4, 2, 2)
    image = np.full((2, 2, 3), 77, np.uint8)
    seen = dict(
        student=Seen(labels, features), teacher=Seen(truth.clip(0, 3), features)
    )
    figure = draw([Row(image, truth, seen)], PALETTE, ['a', 'b', 'c', 'd'])
    titles = [axis.get_title() for axis in figure.axes[:6]]
    assert titles == [
        'picture',
        'truth',
        'student',
        'teacher',
        'affinity: student',
        'affinity: teacher',
    ]
    shown = as_image(figure)
    for colour in (*PALETTE, (77, 77, 77)):
        assert (shown == np.array(colour)).all(-1).sum() > 50, colour
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list('abcd')


def test_a_head_without_conv_seg_has_no_affinities():
    row = Row(
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((2, 2), int),
        dict(student=Seen(np.zeros((2, 2), int), None)),
    )
    figure = draw([row], PALETTE, list('abcd'))
    assert [a.get_title() for a in figure.axes] == ['picture', 'truth', 'student']


@pytest.fixture
def digits_run(tmp_path, monkeypatch):
    """A distilled run of two iterations on a handful of digits."""
    monkeypatch.setenv('MMKD_DATA', str(tmp_path / 'data'))
    make_digits(tmp_path / 'data' / 'digits', num_train=4, num_val=3)
    options = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': 2,
    }
    config = 'mmkd::demo/skds_fpn_r18-w8_fpn_r18-w24_digits.py'

    def run(name: str, hook: dict | None) -> Config:
        work_dir = tmp_path / name
        cfg = train_config(config, options=options, work_dir=str(work_dir))
        cfg.model.teacher = dict(
            config='mmkd::demo/fpn_r18-w24_digits.py',
            checkpoint=None,
            allow_random=True,
        )
        if hook is not None:
            cfg.default_hooks.pictures = dict(
                type='mmkd.SegmentationPictureHook', **hook
            )
        cfg.visualizer.name = cfg.experiment_name = name
        cfg.randomness = dict(seed=0)
        Runner.from_cfg(cfg).train()
        return work_dir

    return run


def test_the_hook_draws_after_every_validation(digits_run):
    plain = digits_run('plain', None)
    alone = str(plain / 'iter_2.pth')
    folder = digits_run('drawn', dict(indices=[0, 2], compare=dict(alone=alone)))
    pictures = sorted(folder.glob('*/vis_data/vis_image/segmentation_*.png'))
    assert [p.stem for p in pictures] == ['segmentation_1', 'segmentation_2']
    shape = pyplot.imread(io.BytesIO(pictures[0].read_bytes())).shape
    assert shape[1] / 220 == pytest.approx(2 + 3 + 3, abs=1)  # eight columns
    # Drawing changes nothing of the run.
    first, second = (
        torch.load(f / 'iter_2.pth', weights_only=False)['state_dict']
        for f in (plain, folder)
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_rejects_numbers():
    with pytest.raises(ValueError, match='interval must be an integer >= 1 but is 0'):
        SegmentationPictureHook(interval=0)
    for indices in ([], [-1]):
        with pytest.raises(ValueError, match='indices must name items of the data set'):
            SegmentationPictureHook(indices=indices)


def test_what_cannot_be_drawn_is_an_error_before_training(digits_run):
    with pytest.raises(ValueError, match='indices must be below 3'):
        digits_run('beyond', dict(indices=[3]))
    with pytest.raises(FileNotFoundError, match="'none.pth' of 'alone' does not exist"):
        digits_run('missing', dict(indices=[0], compare=dict(alone='none.pth')))
