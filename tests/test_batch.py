"""The batch: which positions of a map belong to the image."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch


def samples_of(*shapes):
    return [BaseDataElement(metainfo=dict(img_shape=shape)) for shape in shapes]


def reference(size, shapes, rows, columns) -> np.ndarray:
    """A position counts if its upper left pixel lies in the image."""
    mask = np.zeros((len(shapes), 1, rows, columns), bool)
    for n, y, x in np.ndindex(len(shapes), rows, columns):
        pixel = y * size[0] / rows, x * size[1] / columns
        mask[n, 0, y, x] = pixel[0] < shapes[n][0] and pixel[1] < shapes[n][1]
    return mask


@pytest.mark.parametrize('rows_columns', [(32, 48), (16, 24), (8, 12), (1, 2), (5, 7)])
def test_equals_the_definition(rows_columns, device):
    shapes = [(32, 48), (20, 48), (32, 33), (17, 1)]
    batch = Batch(torch.zeros(4, 3, 32, 48, device=device), samples_of(*shapes))
    mask = batch.valid_mask(torch.zeros(4, 6, *rows_columns, device=device))
    assert mask.dtype == torch.bool
    assert mask.device.type == device.type
    expected = reference((32, 48), shapes, *rows_columns)
    np.testing.assert_array_equal(mask.cpu().numpy(), expected)


def test_matches_average_pooling_of_the_padded_area():
    # At stride 8 a cell is left out if, and only if, it holds no image pixel.
    shapes = [(24, 17), (9, 32)]
    pixels = torch.zeros(2, 1, 32, 32)
    for image, (height, width) in zip(pixels, shapes):
        image[:, :height, :width] = 1
    touched = torch.nn.functional.max_pool2d(pixels, 8) > 0
    batch = Batch(torch.zeros(2, 3, 32, 32), samples_of(*shapes))
    assert torch.equal(batch.valid_mask(torch.zeros(2, 1, 4, 4)), touched)


@pytest.mark.parametrize(
    'samples',
    [None, [], [object(), object()], samples_of((16, 16), (16, 16))],
    ids=['none', 'empty', 'without shapes', 'unpadded'],
)
def test_nothing_to_mask_gives_none(samples):
    batch = Batch(torch.zeros(2, 3, 16, 16), samples)
    assert batch.valid_mask(torch.zeros(2, 4, 4, 4)) is None


@pytest.mark.parametrize('shape', [(2, 4), (2, 9, 4), (6, 4, 4, 4)])
def test_only_maps_of_the_batch_are_masked(shape):
    batch = Batch(torch.zeros(2, 3, 16, 16), samples_of((16, 16), (8, 16)))
    assert batch.valid_mask(torch.zeros(shape)) is None


def test_inputs_that_are_no_images_have_no_mask():
    samples = samples_of((1, 1), (1, 1))
    like = torch.zeros(2, 4, 4, 4)
    assert Batch(torch.zeros(2, 16), samples).valid_mask(like) is None
    assert Batch(dict(ids=torch.zeros(2, 16)), samples).valid_mask(like) is None


def test_masks_are_built_once_per_size():
    batch = Batch(torch.zeros(1, 3, 16, 16), samples_of((8, 16)))
    first = batch.valid_mask(torch.zeros(1, 4, 4, 4))
    assert batch.valid_mask(torch.zeros(1, 9, 4, 4)) is first
    assert batch.valid_mask(torch.zeros(1, 4, 2, 2)).tolist() == [
        [[[True, True], [False, False]]]
    ]


def test_batches_do_not_share_masks():
    like = torch.zeros(1, 4, 2, 2)
    tall, wide = (
        Batch(torch.zeros(1, 3, 4, 4), samples_of(shape)).valid_mask(like)
        for shape in [(4, 2), (2, 4)]
    )
    assert tall.tolist() == [[[[True, False], [True, False]]]]
    assert wide.tolist() == [[[[True, True], [False, False]]]]


def test_a_third_number_in_the_shape_is_ignored():
    # mmdet writes (height, width, channels) in places.
    batch = Batch(torch.zeros(1, 3, 4, 4), samples_of((4, 2, 3)))
    mask = batch.valid_mask(torch.zeros(1, 1, 2, 2))
    assert mask.tolist() == [[[[True, False], [True, False]]]]


def test_a_level_that_hangs_over_the_edge_has_its_own_stride():
    # 800 pixels at stride 128 are 7 rows; the last begins at 768, behind 700.
    sample = BaseDataElement(metainfo=dict(img_shape=(700, 800)))
    batch = Batch(torch.zeros(1, 1, 800, 800), [sample])
    rows = batch.valid_mask(torch.zeros(1, 1, 7, 7))[0, 0, :, 0]
    assert rows.tolist() == [True] * 6 + [False]
    # A patch size that is no power of two: 56 pixels in 4 rows of 14.
    sample = BaseDataElement(metainfo=dict(img_shape=(28, 56)))
    batch = Batch(torch.zeros(1, 1, 56, 56), [sample])
    rows = batch.valid_mask(torch.zeros(1, 1, 4, 4))[0, 0, :, 0]
    assert rows.tolist() == [True, True, False, False]
