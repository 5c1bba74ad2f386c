"""Photos of label maps: painted, cut, packed, trained on."""

import sys

import cv2
import numpy as np
import pytest
import torch
from gan_toy import run_config
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.runner import Runner

import mmkd

pytest.importorskip('mmseg', reason='label maps are read by MMSegmentation')

PALETTE = [[128, 64, 128], [0, 0, 142], [70, 130, 180]]
META = dict(classes=('road', 'car', 'sky'), palette=PALETTE)
PACK = [dict(type='mmkd.PaintLabels'), dict(type='mmkd.PackPictures')]
ONE_HOT = [dict(type='mmkd.PaintLabels', encoding='one_hot'), PACK[1]]


def labels_of(number, height=16, width=24):
    generator = np.random.default_rng(number)
    return generator.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)


def photo_of(number, height=16, width=24):
    """Red tells the label: 10 of class 0, 20 of class 1, 30 of class 2, 40 of none."""
    generator = np.random.default_rng(100 + number)
    photo = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = labels_of(number, height, width)
    photo[..., 0] = np.where(labels == 255, 40, 10 * (labels.astype(int) + 1))
    return photo


def written(root, count=4):
    for i in range(count):
        for folder, picture in (
            ('photos', photo_of(i)[..., ::-1]),
            ('labels', labels_of(i)),
        ):
            path = root / folder / f'{i:02d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
    return dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='photos', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=META,
    )


def pairs(root, pipeline=PACK, inner=None, **told):
    dataset = {**written(root), **(inner or {})}
    cfg = dict(type='mmkd.LabelsToPhotos', dataset=dataset, pipeline=pipeline)
    return DATASETS.build({**cfg, **told})


def painted(labels):
    table = np.zeros((256, 3), np.uint8)
    table[:3] = PALETTE
    return torch.from_numpy(table[labels]).permute(2, 0, 1)


def test_labels_are_painted_in_the_colours_of_the_data_set(tmp_path):
    dataset = pairs(tmp_path)
    assert len(dataset) == 4
    assert dataset.metainfo['classes'] == META['classes']
    for i in range(4):
        sample = dataset[i]
        source, target = (sample['inputs'][side] for side in ('source', 'target'))
        assert torch.equal(source, painted(labels_of(i)))
        assert torch.equal(target, torch.from_numpy(photo_of(i)).permute(2, 0, 1))
        assert source.dtype == target.dtype == torch.uint8
        assert sample['data_samples']['name'] == f'{i:02d}'
        labels = sample['data_samples']['labels']
        assert torch.equal(labels, torch.from_numpy(labels_of(i)))


def test_other_colours_may_be_given(tmp_path):
    paint = dict(type='mmkd.PaintLabels', palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    source = pairs(tmp_path, [paint, PACK[1]])[0]['inputs']['source']
    road = torch.from_numpy(labels_of(0)) == 0
    assert source[:, road].unique(dim=1).flatten().tolist() == [1, 2, 3]


def test_a_plane_for_each_class(tmp_path):
    source = pairs(tmp_path, ONE_HOT)[1]['inputs']['source']
    labels = torch.from_numpy(labels_of(1))
    assert source.shape == (3, 16, 24)
    assert source.dtype == torch.uint8
    for number in range(3):
        assert torch.equal(source[number] == 255, labels == number)
    total = source.long().sum(0)
    assert torch.equal(total, torch.where(labels == 255, 0, 255))


def test_labels_are_cut_and_mirrored_with_their_photo(tmp_path):
    change = dict(
        type='mmkd.ChangePictures',
        steps=[
            dict(type='RandomCrop', size=8),
            dict(type='RandomHorizontalFlip'),
        ],
    )
    dataset = pairs(tmp_path, [change, *PACK])
    mirrored = set()
    for _ in range(10):
        sample = dataset[2]
        target, labels = sample['inputs']['target'], sample['data_samples']['labels']
        assert labels.shape == (8, 8)
        told = torch.where(labels == 255, 40, 10 * (labels.long() + 1))
        assert torch.equal(target[0].long(), told)
        assert torch.equal(sample['inputs']['source'], painted(labels.numpy()))
        windows = torch.from_numpy(labels_of(2)).unfold(0, 8, 1).unfold(1, 8, 1)
        mirrored.add(not bool((windows == labels).all(-1).all(-1).any()))
    assert mirrored == {True, False}


@pytest.mark.parametrize(
    ('step', 'around'),
    [
        (dict(type='Pad', padding=4), 0),
        (dict(type='Pad', padding=4, fill=77), 77),
        (dict(type='RandomCrop', size=(24, 32), pad_if_needed=True), 0),
        (dict(type='RandomAffine', degrees=0, scale=(0.5, 0.5)), 0),
    ],
)
def test_what_is_added_around_labels_has_no_class(step, around, tmp_path):
    change = dict(type='mmkd.ChangePictures', steps=[step])
    dataset = pairs(tmp_path, [change, *PACK])
    sample = dataset[0]
    labels = sample['data_samples']['labels']
    source, target = (sample['inputs'][name] for name in ('source', 'target'))
    added = torch.ones_like(labels, dtype=torch.bool)
    if step['type'] == 'Pad':
        added[4:-4, 4:-4] = False
        inside = torch.from_numpy(labels_of(0))
        assert torch.equal(labels[4:-4, 4:-4], inside)
    else:
        added[6:-6, 8:-8] = False
        added &= (target == 0).all(0)
        assert added.sum() > labels.numel() / 4
    assert (labels[added] == 255).all()
    assert (source[:, added] == 0).all()
    assert (target[:, added] == around).all()


def test_a_resized_label_map_has_no_other_labels(tmp_path):
    change = dict(
        type='mmkd.ChangePictures', steps=[dict(type='Resize', size=(20, 40))]
    )
    sample = pairs(tmp_path, [change, *PACK])[0]
    labels = sample['data_samples']['labels']
    assert labels.shape == (20, 40)
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}
    colours = sample['inputs']['source'].flatten(1).unique(dim=1).T.tolist()
    assert sorted(colours) == sorted([*PALETTE, [0, 0, 0]])
    # The photo is interpolated.
    assert len(sample['inputs']['target'][0].unique()) > 4


def test_the_data_sets_own_labels_count(tmp_path):
    """Those of Cityscapes, of which one class is left out."""
    inner = dict(
        type='mmseg.CityscapesDataset',
        metainfo=dict(classes=('road', 'building')),
        seg_map_suffix='.png',
    )
    dataset = pairs(tmp_path, inner=inner)
    assert dataset.metainfo['palette'] == [[128, 64, 128], [70, 70, 70]]
    labels = labels_of(0)  # 0 is road, 1 is sidewalk, 2 is building
    expected = np.select([labels == 0, labels == 2], [0, 1], 255).astype(np.uint8)
    sample = dataset[0]
    found = sample['data_samples']['labels']
    assert torch.equal(found, torch.from_numpy(expected))
    assert sample['inputs']['source'][:, found == 1].unique().tolist() == [70]


def test_zero_may_be_no_class(tmp_path):
    root = tmp_path
    dataset = pairs(root, inner=dict(reduce_zero_label=True))
    found = dataset[0]['data_samples']['labels'].numpy()
    labels = labels_of(0)
    expected = np.select([labels == 1, labels == 2], [0, 1], 255)
    assert (found == expected).all()


def test_files_are_found_when_they_are_needed(tmp_path):
    dataset = pairs(tmp_path, lazy_init=True, indices=2)
    assert dataset.metainfo['classes'] == META['classes']
    for path in (tmp_path / 'photos').glob('*.png'):
        path.rename(path.with_stem(f'new{path.stem}'))
    for path in (tmp_path / 'labels').glob('*.png'):
        path.rename(path.with_stem(f'new{path.stem}'))
    dataset.full_init()
    assert len(dataset) == 2
    assert dataset[1]['data_samples']['name'] == 'new01'


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
def test_a_batch_goes_through_a_model(collate, tmp_path):
    dataset = pairs(tmp_path)
    data = collate([dataset[0], dataset[3]])
    small = dict(type='mmkd.ResnetGenerator', ngf=2, num_blocks=1)
    judge = mmkd.PatchDiscriminator(6, ndf=2, num_layers=1)
    found = mmkd.Pix2Pix(small, judge).eval().val_step(data)
    assert [one['name'] for one in found] == ['00', '03']
    for number, one in zip((0, 3), found):
        assert torch.equal(one['labels'], torch.from_numpy(labels_of(number)))
        expected = painted(labels_of(number)).float() / 127.5 - 1
        assert torch.equal(one['source'], expected)


def test_a_runner_trains_on_planes(tmp_path):
    model = dict(
        type='mmkd.Pix2Pix',
        generator=dict(type='mmkd.ResnetGenerator', in_channels=3, ngf=2, num_blocks=1),
        discriminator=dict(
            type='mmkd.PatchDiscriminator', in_channels=6, ndf=2, num_layers=1
        ),
    )
    cfg = run_config(model, tmp_path / 'run')
    cfg['train_dataloader']['dataset'] = dict(
        type='mmkd.LabelsToPhotos', dataset=written(tmp_path), pipeline=ONE_HOT
    )
    cfg['train_cfg'] = dict(by_epoch=True, max_epochs=1)
    cfg = Config(cfg)
    cfg.experiment_name = f'labels_{tmp_path.name}'
    runner = Runner.from_cfg(cfg)
    name = 'generator.model.1.weight'
    before = runner.model.state_dict()[name].clone()
    runner.train()
    assert runner.iter == 2
    assert not torch.equal(before, runner.model.state_dict()[name])


def test_channels_that_do_not_fit_are_a_sentence(tmp_path):
    data = pseudo_collate([pairs(tmp_path, ONE_HOT)[0]])
    small = dict(type='mmkd.ResnetGenerator', ngf=2, num_blocks=1)
    judge = dict(type='mmkd.PatchDiscriminator', ndf=2, num_layers=1)
    optimizers = run_config(None, tmp_path)['optim_wrapper']
    for told, sentence in (
        (dict(in_channels=11), 'source must have 11 channels, as generator.in_c.* 3'),
        (dict(out_channels=1), 'target must have 1 channels, as generator.out_c.* 3'),
    ):
        generator = dict(small, **told)
        channels = told.get('in_channels', 3) + told.get('out_channels', 3)
        model = MODELS.build(
            dict(
                type='mmkd.Pix2Pix',
                generator=generator,
                discriminator=dict(judge, in_channels=channels),
            )
        )
        constructor = mmkd.registry.OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type='mmkd.GANOptimWrapperConstructor',
                optim_wrapper_cfg={
                    k: v for k, v in optimizers.items() if k != 'constructor'
                },
            )
        )
        with pytest.raises(ValueError, match=sentence):
            model.train_step(data, constructor(model))
        with pytest.raises(ValueError, match=sentence):
            model.val_step(data)


@pytest.mark.parametrize(
    ('inner', 'error', 'sentence'),
    [
        (dict(metainfo=None), ValueError, 'must name its classes'),
        (dict(pipeline=[]), ValueError, 'must have no pipeline'),
        (dict(img_suffix='.gif'), FileNotFoundError, "end in '.gif'"),
        (dict(type='NoSuchDataset'), KeyError, 'NoSuchDataset'),
    ],
)
def test_mistakes_are_sentences(inner, error, sentence, tmp_path):
    with pytest.raises(error, match=sentence):
        pairs(tmp_path, inner=inner)


def test_without_mmsegmentation_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    with pytest.raises(ModuleNotFoundError, match='MMSegmentation, which is not inst'):
        pairs(tmp_path)


def test_labels_that_are_no_classes_are_named(tmp_path):
    two = dict(classes=('road', 'car'), palette=PALETTE[:2])
    with pytest.raises(ValueError, match='below 2, the number .* but 00 has 2'):
        pairs(tmp_path, inner=dict(metainfo=two))[0]


def test_sizes_and_orders_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match='00 has no source: .* mmkd.PaintLabels'):
        pairs(tmp_path, PACK[1:])[0]
    crop = dict(type='mmkd.ChangePictures', steps=[dict(type='CenterCrop', size=10)])
    with pytest.raises(ValueError, match=r'multiples of 4 but 00 has \(10, 10\)'):
        pairs(tmp_path, [crop, *PACK])[0]
    dataset = pairs(tmp_path)
    assert cv2.imwrite(str(tmp_path / 'photos' / '00.png'), photo_of(0, 12))
    with pytest.raises(
        ValueError, match=r'one size, but 00 has \(16, 24\) and \(12, 2'
    ):
        dataset[0]


@pytest.mark.parametrize(
    ('told', 'sentence'),
    [
        (dict(encoding='grey'), "'palette' or 'one_hot' but is 'grey'"),
        (dict(palette=[[1, 2]]), 'red, green and blue from 0 to 255'),
        (dict(palette=[[1, 2, 256]]), 'red, green and blue from 0 to 255'),
    ],
)
def test_what_cannot_be_painted(told, sentence):
    with pytest.raises(ValueError, match=sentence):
        TRANSFORMS.build(dict(type='mmkd.PaintLabels', **told))


def test_a_palette_of_too_few_colours_and_no_labels():
    paint = TRANSFORMS.build(dict(type='mmkd.PaintLabels', palette=PALETTE[:2]))
    sample = dict(labels=torch.zeros(1, 4, 4), num_classes=3, name='a')
    with pytest.raises(ValueError, match='each of 3 classes but has 2'):
        paint(sample)
    with pytest.raises(ValueError, match='must have labels, as of mmkd.LabelsTo'):
        paint(dict(name='a'))
