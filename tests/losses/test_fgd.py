"""FGD: attention, masks, and every part of the loss against plain Python."""

import math

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmkd.batch import Batch
from mmkd.losses import FGDLoss, fgd_loss
from mmkd.losses.fgd import GlobalContext, attention, foreground_weights

FUNCTION = fgd_loss
# Shape, temperature, alpha, beta, gamma, size of the images' unmasked corners.
CASES = [
    ((2, 3, 4, 5), 0.5, 1.0, 0.0, 0.0, None),
    ((2, 3, 4, 5), 0.5, 0.0, 1.0, 0.0, None),
    ((2, 3, 4, 5), 0.5, 0.0, 0.0, 1.0, None),
    ((1, 2, 3, 3), 2.0, 0.3, 2.0, 0.5, None),
    ((2, 2, 4, 4), 0.8, 1.0, 2.0, 3.0, [(4, 2), (3, 4)]),
]
MUTATIONS = {
    'alpha everywhere': ('alpha * foreground', 'alpha'),
    'background not averaged': ('background / count', 'background'),
    'no spatial attention': ('weight * spatial *', 'weight *'),
    'no channel attention': ('spatial * channel *', 'spatial *'),
    'attention of the student': (
        'attention(teacher, temperature, mask)',
        'attention(student, temperature, mask)',
    ),
    'not squared': ('(student - teacher).square()', '(student - teacher).abs()'),
    'attention squared': ('(x - y).abs()', '(x - y).square()'),
    'no gamma': ('gamma * difference', '0 * difference'),
    'not per image': (' / len(student)', ''),
    'padding is background': ('background & mask', 'background'),
    'no temperature': ('temperature, mask)', '1.0, mask)'),
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def attend(maps: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one image, (C, H, W): H W softmax_HW and C softmax_C of mean absolutes."""
    size = np.abs(maps)
    where = size.mean(0)
    spatial = where.size * softmax(where.ravel() / temperature).reshape(where.shape)
    channel = len(maps) * softmax(size.mean((1, 2)) / temperature)
    return spatial, channel


def reference(student, teacher, foreground, temperature, alpha, beta, gamma) -> float:
    """Of one image."""
    spatial, channel = attend(teacher, temperature)
    channels, height, width = student.shape
    background = sum(foreground[y, x] == 0 for y in range(height) for x in range(width))
    total = 0.0
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                error = spatial[y, x] * channel[c]
                error *= (student[c, y, x] - teacher[c, y, x]) ** 2
                if foreground[y, x]:
                    total += alpha * foreground[y, x] * error
                else:
                    total += beta * error / background
    ours = attend(student, temperature)
    total += gamma * np.abs(ours[0] - spatial).sum()
    return total + gamma * np.abs(ours[1] - channel).sum()


def compare(function, shape, temperature, alpha, beta, gamma, corners) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64)
    foreground = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64)
    foreground[foreground < 0.6] = 0
    expected = 0.0
    for n, (height, width) in enumerate(corners or [shape[2:]] * shape[0]):
        parts = (x[n, :, :height, :width].numpy() for x in (s, t))
        inside = foreground[n, 0, :height, :width].numpy()
        expected += reference(*parts, inside, temperature, alpha, beta, gamma)
    mask = None
    if corners:
        mask = torch.zeros_like(foreground, dtype=torch.bool)
        for image, (height, width) in zip(mask, corners):
            image[:, :height, :width] = True
    # In padding attention differs, by nothing that the image holds.
    actual = function(s, t, foreground, temperature, alpha, beta, gamma, mask).item()
    assert actual == pytest.approx(expected / shape[0], rel=1e-9)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_formula(case):
    compare(fgd_loss, *case)


def batch_of(boxes: list, size=(32, 32), shapes=None) -> Batch:
    samples = []
    for index, box in enumerate(boxes):
        sample = BaseDataElement(
            metainfo=dict(img_shape=shapes[index] if shapes else size)
        )
        sample.gt_instances = InstanceData(bboxes=torch.tensor(box).reshape(-1, 4))
        samples.append(sample)
    return Batch(torch.zeros(len(boxes), 3, *size), samples)


def test_attention_has_a_mean_of_one():
    maps = torch.randn(3, 5, 6, 7)
    for found in attention(maps, 0.5):
        torch.testing.assert_close(found.flatten(1).mean(1), torch.ones(3))


def test_boxes_take_every_cell_that_they_touch_and_weigh_one_in_all():
    # x 5..11, y 9..17 at stride 4: columns 1 to 3, rows 2 to 5.
    batch = batch_of([[[5.0, 9, 11, 17]], []])
    weights = foreground_weights(batch, torch.zeros(2, 1, 8, 8))
    expected = torch.zeros(8, 8)
    expected[2:6, 1:4] = 1 / 12
    torch.testing.assert_close(weights[0, 0], expected)
    assert not weights[1].any()


def test_of_two_boxes_the_smaller_one_counts():
    batch = batch_of([[[0.0, 0, 30, 30], [4, 4, 7, 7]]])
    weights = foreground_weights(batch, torch.zeros(1, 1, 8, 8))[0, 0]
    assert weights[0, 0].item() == pytest.approx(1 / 81)  # ceil(30 / 4) = 8: 9 x 9
    assert weights[1, 1].item() == weights[2, 2].item() == pytest.approx(1 / 4)


def test_boxes_are_scaled_by_the_padded_size():
    """An image that is half padding: cells are those of the batch's input."""
    batch = batch_of([[[8.0, 8, 11, 11]]], shapes=[(32, 16)])
    weights = foreground_weights(batch, torch.zeros(1, 1, 8, 8))[0, 0]
    assert weights.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_a_context_block_starts_as_the_identity():
    maps = torch.randn(2, 6, 4, 5)
    block = GlobalContext(6)
    assert torch.equal(block(maps), maps)
    with torch.no_grad():
        block.transform[-1].bias.fill_(2)
    torch.testing.assert_close(block(maps), maps + 2)


def test_context_is_the_attended_mean():
    torch.manual_seed(0)
    block = GlobalContext(4)
    torch.nn.init.normal_(block.transform[-1].weight)
    maps = torch.randn(1, 4, 2, 3)
    scores = block.attend(maps).flatten()
    share = scores.softmax(0)
    mean = sum(w * maps[0].flatten(1)[:, i] for i, w in enumerate(share))
    expected = maps + block.transform(mean.view(1, 4, 1, 1))
    torch.testing.assert_close(block(maps), expected)


def test_the_relation_is_added():
    torch.manual_seed(0)
    maps = tuple(torch.randn(2, 4, 8 >> k, 8 >> k) for k in range(2))
    theirs = tuple(x + torch.randn_like(x) for x in maps)
    batch = batch_of([[[5.0, 9, 11, 17]], [[1.0, 1, 30, 20]]])
    loss = FGDLoss(loss_weight=5, relation_weight=0.25)
    loss.prepare(maps, theirs)
    expected = 0.0
    for level, (s, t) in enumerate(zip(maps, theirs)):
        expected += fgd_loss(s, t, foreground_weights(batch, s))
        context = loss.contexts[level]
        error = context['student'](s) - context['teacher'](t)
        expected += 0.25 * (error**2).sum() / 2
    torch.testing.assert_close(loss(maps, theirs, batch), expected * 5 / 2)
    loss(maps, theirs, batch).backward()
    for name, parameter in loss.named_parameters():  # both sides learn
        if 'transform.3' in name:
            assert parameter.grad.abs().max() > 0, name


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    s, t = torch.randn(2, 1, 4, 8, 8)
    batch = batch_of([[[5.0, 9, 11, 17]]], shapes=[(32, 16)])
    loss = FGDLoss()
    loss.prepare(s, t)
    value = loss(s, t, batch)
    for side in (s, t):
        side[..., 4:] = 1e3
    torch.testing.assert_close(loss(s, t, batch), value)


def test_images_without_objects_are_all_background():
    s, t = torch.randn(2, 1, 4, 8, 8)
    loss = FGDLoss(alpha=1.0, beta=0.0, gamma=0.0, relation_weight=0.0)
    assert loss(s, t, batch_of([[]])).item() == 0
    loss = FGDLoss(alpha=0.0, beta=1.0, gamma=0.0, relation_weight=0.0)
    assert loss(s, t, batch_of([[]])) > 0


def test_what_cannot_be_is_an_error():
    with pytest.raises(ValueError, match='FGDLoss makes its context blocks by a dry'):
        FGDLoss().prepare(None, torch.zeros(1, 2, 3, 3))
    with pytest.raises(ValueError, match='FGD needs the batch'):
        FGDLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
    for name in ('alpha', 'beta', 'gamma', 'relation_weight'):
        with pytest.raises(ValueError, match=f'{name} must be finite and >= 0 but is'):
            FGDLoss(**{name: math.inf})
