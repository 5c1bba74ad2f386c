"""CARAFE, deformable attention, PSA masks and masked convolution."""

import numpy as np
import pytest
import torch
from ops_reference import bilinear
from torch.autograd import gradcheck

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')


def rand(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=gen, dtype=torch.double)


@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
def test_carafe(name, device):
    kernel, groups, scale = 3, 2, 2
    x, masks = rand(2, 4, 3, 4), rand(2, groups * kernel**2, 6, 8, seed=1)
    expected = torch.zeros(2, 4, 6, 8, dtype=torch.double)
    for n, c, i, j in np.ndindex(*expected.shape):
        for p, q in np.ndindex(kernel, kernel):
            y, xx = i // scale + p - 1, j // scale + q - 1
            if 0 <= y < 3 and 0 <= xx < 4:
                tap = (c // 2) * kernel**2 + p * kernel + q
                expected[n, c, i, j] += x[n, c, y, xx] * masks[n, tap, i, j]
    x, masks = x.to(device), masks.to(device)
    op = getattr(ops, name)
    got = op(x, masks, kernel, groups, scale)
    torch.testing.assert_close(got.cpu(), expected)
    if name == 'carafe':
        assert gradcheck(
            lambda a, b: op(a, b, kernel, groups, scale),
            (x.requires_grad_(), masks.requires_grad_()),
            fast_mode=True,
        )


def test_carafe_naive_gradients_are_those_of_carafe():
    """mmcv refuses the naive backward off CUDA; the operator itself works."""
    import mmcv._ext as ext

    x, masks = rand(2, 4, 3, 4).requires_grad_(), rand(2, 18, 6, 8, seed=1)
    masks.requires_grad_()
    weight = rand(2, 4, 6, 8, seed=2)
    (ops.carafe(x, masks, 3, 2, 2) * weight).sum().backward()
    grads = torch.zeros_like(x), torch.zeros_like(masks)
    ext.carafe_naive_backward(
        weight, x, masks, *grads, kernel_size=3, group_size=2, scale_factor=2
    )
    torch.testing.assert_close(grads[0], x.grad)
    torch.testing.assert_close(grads[1], masks.grad)


def test_autocast_does_not_reach_into_an_operator(device):
    """Its matrix products would otherwise run in half precision."""
    x, masks = (t.float().to(device) for t in (rand(1, 4, 3, 4), rand(1, 9, 6, 8)))
    expected = ops.carafe(x, masks, 3, 1, 2)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = ops.carafe(x, masks, 3, 1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


SHAPES = torch.tensor([[3, 4], [2, 2]])
STARTS = torch.tensor([0, 12])


def attend(*args):
    module = pytest.importorskip('mmcv.ops.multi_scale_deform_attn')
    return module.MultiScaleDeformableAttnFunction.apply(*args)


def attention_inputs(device='cpu'):
    value = rand(2, 16, 2, 3)
    # Some points lie outside of the map, where there are zeros.
    points = rand(2, 5, 2, 2, 2, 2, seed=1) * 0.4 + 0.5
    weights = rand(2, 5, 2, 2, 2, seed=2).abs()
    return [t.to(device) for t in (value, points, weights)]


def test_deformable_attention(device):
    value, points, weights = attention_inputs()
    expected = torch.zeros(2, 5, 6, dtype=torch.double)
    for n, q, h, d in np.ndindex(2, 5, 2, 3):
        for level, p in np.ndindex(2, 2):
            height, width = SHAPES[level].tolist()
            start = STARTS[level].item()
            plane = value[n, start : start + height * width, h, d]
            x, y = points[n, q, h, level, p].tolist()
            expected[n, q, h * 3 + d] += weights[n, q, h, level, p] * bilinear(
                plane.view(height, width).numpy(),
                y * height - 0.5,
                x * width - 0.5,
                border=False,
            )
    value, points, weights = (t.to(device) for t in (value, points, weights))
    shapes, starts = SHAPES.to(device), STARTS.to(device)
    got = attend(value, shapes, starts, points, weights, 64)
    torch.testing.assert_close(got.cpu(), expected)
    leaves = [t.requires_grad_() for t in (value, points, weights)]
    assert gradcheck(
        lambda v, p, w: attend(v, shapes, starts, p, w, 64),
        leaves,
        fast_mode=True,
        nondet_tol=1e-9,
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deformable_attention_low_precision(dtype, device):
    value, points, weights = attention_inputs(device)
    shapes, starts = SHAPES.to(device), STARTS.to(device)
    value, points, weights = (t.to(dtype) for t in (value, points, weights))
    exact = attend(value.double(), shapes, starts, points.double(), weights.double(), 1)
    got = attend(value.requires_grad_(), shapes, starts, points, weights, 1)
    torch.testing.assert_close(got, exact.to(dtype))
    got.sum().backward()
    assert value.grad.dtype == dtype
    assert value.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('window', [(3, 5), (9, 7)])
def test_psa_mask(kind, window, device):
    """Windows smaller and larger than the map of 4 x 3."""
    x = rand(2, window[0] * window[1], 4, 3)
    expected = torch.zeros(2, 12, 4, 3, dtype=torch.double)
    half = [(side - 1) // 2 for side in window]
    for n, i, j, p, q in np.ndindex(2, 4, 3, *window):
        row, col = i + p - half[0], j + q - half[1]
        if 0 <= row < 4 and 0 <= col < 3:
            value = x[n, p * window[1] + q, i, j]
            if kind == 'collect':
                expected[n, row * 3 + col, i, j] = value
            else:
                expected[n, i * 3 + j, row, col] = value
    module = ops.PSAMask(kind, window)
    torch.testing.assert_close(module(x.to(device)).cpu(), expected)
    x = x.to(device).requires_grad_()
    assert gradcheck(module, x, fast_mode=True, nondet_tol=1e-9)


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), (1, 0), ((3, 5), (1, 2))])
def test_masked_convolution(kernel, padding, device):
    conv = ops.MaskedConv2d(3, 2, kernel, padding=padding).to(device).eval()
    x = rand(1, 3, 5, 6).float().to(device)
    mask = (rand(1, 5, 6, seed=1) > 0.3).float().to(device)
    assert 3 < mask.sum() < 25
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(
            x, conv.weight, conv.bias, padding=padding
        )
        torch.testing.assert_close(conv(x, mask), expected * mask)
        assert not conv(x, mask * 0).any()


def test_point_sampling(device):
    """Pure torch in mmcv: points in the unit square of a map."""
    x = rand(1, 2, 4, 5).to(device)
    points = torch.tensor([[[0.3, 0.6], [0.9, 0.1]]], dtype=torch.double)
    got = ops.point_sample(x, points.to(device)).cpu()
    for k, (px, py) in enumerate(points[0].tolist()):
        for c in range(2):
            expected = bilinear(
                x[0, c].cpu().numpy(), py * 4 - 0.5, px * 5 - 0.5, border=False
            )
            assert got[0, c, k].item() == pytest.approx(expected)


@pytest.mark.parametrize('mode', ['top', 'bottom', 'left', 'right'])
def test_corner_pool(mode):
    """Pure torch in mmcv: the running maximum towards one side."""
    x = rand(1, 2, 4, 5)
    got = ops.CornerPool(mode)(x)
    for i, j in np.ndindex(4, 5):
        part = {
            'top': x[..., i:, j],
            'bottom': x[..., : i + 1, j],
            'left': x[..., i, j:],
            'right': x[..., i, : j + 1],
        }[mode]
        torch.testing.assert_close(got[..., i, j], part.amax(-1))
