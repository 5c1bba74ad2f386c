"""The digits data set: same bytes, disjoint splits, annotations that fit."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('skimage')
pytest.importorskip('sklearn')
pytest.importorskip('pycocotools')
from pycocotools.coco import COCO

from mmkd.demo import digits as digits_module
from mmkd.demo.digits import IGNORE, make_digits
from mmkd.demo.sources import load_photos, load_scans

SPLITS = ('train', 'val')


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return make_digits(tmp_path_factory.mktemp('data') / 'digits', 30, 20, seed=3)


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def load_json(root: Path, split: str) -> dict:
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def load_coco(root: Path, split: str) -> COCO:
    return COCO(str(root / 'annotations' / f'{split}.json'))


def test_same_seed_gives_same_bytes(root, tmp_path):
    again = read_all(make_digits(tmp_path / 'again', 30, 20, seed=3))
    assert len(again) == 2 * (30 + 20) + 3
    assert again == read_all(root)


def test_other_seed_gives_other_pictures(root, tmp_path):
    other = read_all(make_digits(tmp_path / 'other', 2, 1, seed=4))
    here = read_all(root)
    for name in ('train/000000.png', 'train/000001.png', 'val/000000.png'):
        assert other[name] != here[name]


def test_pictures_do_not_depend_on_how_many_there_are(root, tmp_path):
    fewer = read_all(make_digits(tmp_path / 'fewer', 4, 2, seed=3))
    here = read_all(root)
    pictures = [name for name in fewer if name.endswith('.png')]
    assert len(pictures) == 12
    assert all(fewer[name] == here[name] for name in pictures)


def test_splits_share_no_digit(root):
    used = {
        split: {a['scan'] for a in load_json(root, split)['annotations']}
        for split in SPLITS
    }
    assert used['train']
    assert used['val']
    assert not used['train'] & used['val']


def test_splits_share_no_pixel_of_a_photo(root):
    """Counted on the photos themselves, from the crops that the json names."""
    seen = {
        split: {
            name: np.zeros(photo.shape[:2], bool)
            for name, photo in load_photos().items()
        }
        for split in SPLITS
    }
    for split in SPLITS:
        for image in load_json(root, split)['images']:
            x, y, width, height = image['crop']
            covered = seen[split][image['photo']]
            assert y + height <= covered.shape[0]
            assert x + width <= covered.shape[1]
            covered[y : y + height, x : x + width] = True
    for name in load_photos():
        assert not (seen['train'][name] & seen['val'][name]).any()
    assert sum(mask.any() for mask in seen['train'].values()) > 5


@pytest.mark.parametrize('split', SPLITS)
def test_annotations_fit_the_label_maps(root, split):
    coco = load_coco(root, split)
    for image_id, image in coco.imgs.items():
        labels = cv2.imread(str(root / 'labels' / split / image['file_name']), 0)
        picture = cv2.imread(str(root / split / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)
        expected = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not expected[mask].any(), 'two digits own the same pixel'
            expected[mask] = annotation['category_id']
            assert annotation['area'] == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert x >= 0
            assert y >= 0
            assert x + width <= image['width']
            assert y + height <= image['height']
        decided = labels != IGNORE
        assert (~decided).any()
        assert np.array_equal(labels[decided], expected[decided])
        assert not expected[~decided].any()


@pytest.mark.parametrize('split', SPLITS)
def test_categories_are_the_digits_of_scikit_learn(root, split):
    coco = load_coco(root, split)
    assert [coco.cats[i]['name'] for i in range(1, 11)] == list('0123456789')
    targets = load_scans()[1]
    for annotation in coco.anns.values():
        name = coco.cats[annotation['category_id']]['name']
        assert name == str(targets[annotation['scan']])


def test_all_classes_occur_and_pictures_are_crowded_enough(root):
    annotations = load_json(root, 'train')['annotations']
    assert {a['category_id'] for a in annotations} == set(range(1, 11))
    assert 3 <= len(annotations) / 30 <= 7


def test_present_set_is_reused_and_another_one_replaced(tmp_path):
    root = make_digits(tmp_path / 'digits', 2, 1)
    marker = root / 'train' / 'marker'
    marker.touch()
    assert make_digits(root, 2, 1) == root
    assert marker.exists(), 'a matching data set must be left alone'
    make_digits(root, 1, 1)
    assert sorted(p.name for p in (root / 'train').iterdir()) == ['000000.png']
    assert [p.name for p in tmp_path.iterdir()] == ['digits'], 'left-over folders'


def test_a_crash_leaves_nothing_behind(tmp_path, monkeypatch):
    make_digits(tmp_path / 'digits', 1, 1)
    before = read_all(tmp_path)

    def crash(scene):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits_module, 'label_map', crash)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / 'digits', 2, 1)
    assert read_all(tmp_path) == before


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='is no digits data set'):
        make_digits(tmp_path / 'photos', 1, 1)
    assert (tmp_path / 'photos' / 'mine.txt').read_text() == 'mine'


@pytest.mark.parametrize('arguments', [dict(size=16), dict(num_train=-1)])
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(ValueError, match='size must be >= 48'):
        make_digits(tmp_path / 'digits', **arguments)


def test_digits_hide_little_of_each_other(root):
    worst = 0.0
    for split in SPLITS:
        coco = load_coco(root, split)
        for image_id in coco.imgs:
            boxes = [a['bbox'] for a in coco.imgToAnns[image_id]]
            for i, (x1, y1, w1, h1) in enumerate(boxes):
                for x2, y2, w2, h2 in boxes[:i]:
                    width = max(min(x1 + w1, x2 + w2) - max(x1, x2), 0)
                    height = max(min(y1 + h1, y2 + h2) - max(y1, y2), 0)
                    worst = max(worst, width * height / min(w1 * h1, w2 * h2))
    # The limit is 0.15 when a digit is placed; a later one may trim a box a little.
    assert 0 < worst < 0.2


def test_progress_counts_every_picture(tmp_path):
    seen = []
    make_digits(tmp_path / 'digits', 2, 1, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
