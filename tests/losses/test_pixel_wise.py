"""Pixel-wise loss: loops, torch's KL divergence, the authors' formulas, properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import PixelWiseLoss, pixel_wise_loss

FUNCTION = pixel_wise_loss
# Shape, temperature, share of valid pixels.
CASES = [
    ((2, 3, 4, 5), 1.0, None),
    ((1, 2, 1, 2), 4.0, None),
    ((3, 7, 3, 3), 0.5, 0.6),
    ((2, 3, 4, 5), 2.0, 0.3),
]
MUTATIONS = {
    'sign': ('(log_t - log_s)', '(log_s - log_t)'),
    'direction': ('log_t.exp()', 'log_s.exp()'),
    'no T squared': (' * temperature**2', ''),
    'T, not T squared': ('temperature**2', 'temperature'),
    'mean over images': ('max(pixels.numel(), 1)', 'max(len(student), 1)'),
    'mean over all pixels': ('valid.sum().clamp(min=1)', 'pixels.numel()'),
    'mean over images with a mask': ('valid.sum().clamp(min=1)', 'len(student)'),
    'the mask selects the others': ('masked_fill(~valid', 'masked_fill(valid'),
    'mean over classes': (').sum(1)', ').mean(1)'),
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(student, teacher, temperature, valid) -> float:
    """T^2 times the mean KL of the valid pixels of all images, pixel by pixel."""
    total, count = 0.0, 0
    images, classes, height, width = student.shape
    for n in range(images):
        for y in range(height):
            for x in range(width):
                if not valid[n, y, x]:
                    continue
                p = softmax(teacher[n, :, y, x] / temperature)
                q = softmax(student[n, :, y, x] / temperature)
                for c in range(classes):
                    total += p[c] * (math.log(p[c]) - math.log(q[c]))
                count += 1
    return temperature**2 * total / count


def drawn(shape, share):
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64) * 2
    valid = torch.rand(shape[0], *shape[2:]) < (1 if share is None else share)
    return s, t, valid


def compare(function, shape, temperature, share) -> None:
    s, t, valid = drawn(shape, share)
    expected = reference(s.numpy(), t.numpy(), temperature, valid)
    actual = function(s, t, None if share is None else valid, temperature)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'temperature', 'share'), CASES)
def test_equals_the_formula(shape, temperature, share):
    compare(pixel_wise_loss, shape, temperature, share)


def test_equals_torch_on_rows_of_pixels():
    s, t = torch.randn(2, 3, 5, 4, 6)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 5).log_softmax(1) for x in (s, t)]
    expected = F.kl_div(*rows, reduction='batchmean', log_target=True)
    torch.testing.assert_close(pixel_wise_loss(s, t), expected)


def test_zero_at_equality_and_positive_elsewhere():
    t = torch.randn(2, 3, 4, 5)
    assert pixel_wise_loss(t.clone(), t).item() == 0
    assert pixel_wise_loss(t + torch.randn_like(t), t) > 1e-2


def test_an_offset_per_pixel_changes_nothing():
    s, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    moved = pixel_wise_loss(s + torch.randn(2, 1, 4, 5) * 9, t)
    torch.testing.assert_close(moved, pixel_wise_loss(s, t))


def test_a_batch_and_the_batch_twice_have_one_value():
    s, t = torch.randn(2, 2, 3, 4, 5)
    twice = pixel_wise_loss(torch.cat([s, s]), torch.cat([t, t]))
    torch.testing.assert_close(twice, pixel_wise_loss(s, t))


def test_images_count_by_their_valid_pixels():
    s, t = torch.randn(2, 2, 3, 4, 5)
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0, :, :4], valid[1, :1, :4] = True, True  # 16 and 4 pixels
    alone = [
        pixel_wise_loss(s[i : i + 1], t[i : i + 1], valid[i : i + 1]) for i in (0, 1)
    ]
    together = pixel_wise_loss(s, t, valid)
    torch.testing.assert_close(together, 0.8 * alone[0] + 0.2 * alone[1])
    torch.testing.assert_close(pixel_wise_loss(s, t, valid[:, None]), together)


def test_ignored_pixels_get_no_gradient_whatever_they_hold():
    s, t = torch.randn(2, 1, 3, 2, 2)
    valid = torch.tensor([[[True, True], [True, False]]])
    s[..., 1, 1], t[..., 1, 1] = 1e30, -1e30
    s.requires_grad_()
    pixel_wise_loss(s, t, valid).backward()
    assert s.grad[..., 1, 1].abs().max() == 0
    assert s.grad[..., 0, :].abs().min() > 0


@pytest.mark.parametrize('valid', [None, torch.zeros(2, 4, 5, dtype=torch.bool)])
def test_nothing_to_compare_gives_a_differentiable_zero(valid):
    s = torch.zeros(2 if valid is not None else 0, 3, 4, 5, requires_grad=True)
    loss = pixel_wise_loss(s, torch.ones_like(s), valid)
    loss.backward()
    assert loss.item() == 0
    assert s.grad.shape == s.shape


def test_one_logit_is_that_of_a_foreground():
    s, t = torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
    p, q = t.sigmoid(), s.sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(pixel_wise_loss(s, t), kl.mean())


def test_rejects_what_does_not_fit():
    s = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r'have \(2, 3, 4, 5\) and \(2, 4, 4, 5\)'):
        pixel_wise_loss(s, torch.zeros(2, 4, 4, 5))
    with pytest.raises(ValueError, match=r'shape \(N, C, H, W\) but have \(2, 3\)'):
        pixel_wise_loss(s[..., 0, 0], s[..., 0, 0])
    with pytest.raises(ValueError, match=r'valid_mask must have shape \(2, 4, 5\)'):
        pixel_wise_loss(s, s, torch.ones(2, 5, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is 0'):
        pixel_wise_loss(s, s, None, 0)
    with pytest.raises(ValueError, match='temperature must be finite and > 0 but is 0'):
        PixelWiseLoss(temperature=0)
    with pytest.raises(ValueError, match="normalize must be one of .* but is 'mean'"):
        PixelWiseLoss(normalize='mean')


def test_padding_is_left_out():
    samples = [BaseDataElement(metainfo=dict(img_shape=hw)) for hw in [(8, 4), (4, 8)]]
    batch = Batch(torch.zeros(2, 3, 8, 8), samples)
    s, t = torch.randn(2, 2, 3, 4, 4)
    valid = np.zeros((2, 4, 4), bool)
    valid[0, :, :2], valid[1, :2, :] = True, True
    loss = PixelWiseLoss(at='head', loss_weight=3.0, temperature=2.0)
    expected = 3 * reference(s.double().numpy(), t.double().numpy(), 2.0, valid)
    assert loss(s, t, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('size', [(2, 3), (8, 12)])
def test_the_teachers_map_is_resized_to_the_students(size):
    s, t = torch.randn(2, 3, 4, 6), torch.randn(2, 3, *size)
    loss = PixelWiseLoss(at='head', loss_weight=1.0)
    loss.prepare(s, t)
    resized = F.interpolate(t, (4, 6), mode='bilinear', align_corners=False)
    torch.testing.assert_close(loss(s, t), pixel_wise_loss(s, resized))


def test_classes_must_be_as_many():
    loss = PixelWiseLoss(at='head')
    with pytest.raises(ValueError, match='same classes but score 19 and 150'):
        loss.prepare(torch.zeros(1, 19, 4, 4), torch.zeros(1, 150, 4, 4))
    with pytest.raises(ValueError, match=r"maps .* but 'head' yields \(1, 19\)"):
        loss.prepare(torch.zeros(1, 19), torch.zeros(1, 19))


def pami_code(s: np.ndarray, t: np.ndarray) -> float:
    """Sum over all pixels of all images of the cross-entropy, over H W."""
    total = 0.0
    for n in range(s.shape[0]):
        for y in range(s.shape[2]):
            for x in range(s.shape[3]):
                p, q = softmax(t[n, :, y, x]), softmax(s[n, :, y, x])
                total -= sum(p[c] * math.log(q[c]) for c in range(s.shape[1]))
    return total / s.shape[2] / s.shape[3]


def test_the_later_code_of_the_authors():
    s, t = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    loss = PixelWiseLoss(at='head', loss_weight=1.0, normalize='pami_code')
    assert loss(s, t).item() == pytest.approx(pami_code(s.numpy(), t.numpy()))
    # It grows with the batch.
    double = loss(torch.cat([s, s]), torch.cat([t, t]))
    assert double.item() == pytest.approx(2 * pami_code(s.numpy(), t.numpy()))


def test_the_first_code_of_the_authors():
    """``KLDivLoss()`` on maps enlarged eight times: a mean over all elements."""
    s, t = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    loss = PixelWiseLoss(at='head', loss_weight=1.0, normalize='cvpr19_code')
    larger = [
        F.interpolate(x, (32, 48), mode='bilinear', align_corners=True) for x in (s, t)
    ]
    expected = torch.nn.KLDivLoss(reduction='mean')(
        larger[0].log_softmax(1), larger[1].softmax(1)
    )
    torch.testing.assert_close(loss(s, t), expected)
