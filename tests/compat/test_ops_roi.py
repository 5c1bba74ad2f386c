"""RoI operators against loops over bins and samples."""

import numpy as np
import pytest
import torch
from ops_reference import bilinear, over_bins, roi_samples
from torch.autograd import gradcheck

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')

SIZE, SCALE = (2, 3), 0.5
# Inside, partly outside, and far outside on the far side.
ROIS = torch.tensor(
    [[0, 1, 1, 9.3, 8], [1, -3, 2, 12, 11], [0, 3, 2, 4.5, 9], [1, 30, 30, 44, 40]],
    dtype=torch.double,
)
EMPTY = torch.tensor([[0, 3, 3, 3, 3]], dtype=torch.double)


def features(device='cpu', channels=2):
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(2, channels, 6, 7, generator=gen, dtype=torch.double)
    return x.to(device)


def plain_roi_align(x, rois, ratio, mode, aligned):
    def value(plane, roi, k, c, ph, pw):
        points, _ = roi_samples(roi, ph, pw, SIZE, SCALE, ratio, aligned)
        samples = [bilinear(plane, y, x) for y, x in points]
        return max(samples) if mode == 'max' else sum(samples) / len(samples)

    return torch.from_numpy(over_bins(x.numpy(), rois.numpy(), SIZE, value))


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align(mode, ratio, aligned, device):
    x = features()
    expected = plain_roi_align(x, ROIS, ratio, mode, aligned)
    args = (ROIS.to(device), SIZE, SCALE, ratio, mode, aligned)
    got = ops.roi_align(x.to(device), *args)
    torch.testing.assert_close(got.cpu(), expected)
    x = x.to(device).requires_grad_()
    assert gradcheck(
        lambda x: ops.roi_align(x, *args), x, fast_mode=True, nondet_tol=1e-9
    )


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_without_rois_or_area(mode):
    x = features().requires_grad_()
    none = ops.roi_align(x, ROIS[:0], SIZE, SCALE, 0, mode)
    assert none.shape == (0, 2, 2, 3)
    out = ops.roi_align(x, torch.cat([EMPTY, ROIS[:1]]), SIZE, SCALE, 0, mode)
    assert not out[0].any()
    (grad,) = torch.autograd.grad(out[0].sum() + none.sum(), x)
    assert not grad.any()


def test_roi_align_reports_where_the_maximum_is():
    import mmcv._ext as ext

    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 2, 3] = 5
    roi = torch.tensor([[0, 0.5, 0.5, 6.5, 6.5]])
    out, rows, cols = (torch.zeros(1, 1, 1, 1) for _ in range(3))
    ext.roi_align_forward(
        x,
        roi,
        out,
        rows,
        cols,
        aligned_height=1,
        aligned_width=1,
        spatial_scale=1.0,
        sampling_ratio=6,
        pool_mode=0,
        aligned=True,
    )
    # Six samples per axis on 0 .. 6: at 0.5, 1.5, ...; both neighbours of a
    # pixel weigh it by half.
    assert out.item() == 1.25
    assert {rows.item()} <= {1.5, 2.5}
    assert {cols.item()} <= {2.5, 3.5}


def test_chunks_give_what_one_piece_gives(monkeypatch):
    from mmkd.compat.ops import _common

    x = features()
    calls = {
        'max': lambda: ops.roi_align(x, ROIS, SIZE, SCALE, 0, 'max'),
        'pool': lambda: ops.roi_pool(x, ROIS, SIZE, SCALE),
        'deform': lambda: ops.deform_roi_pool(x, ROIS, None, SIZE, SCALE),
    }
    whole = {name: call() for name, call in calls.items()}
    monkeypatch.setattr(_common, 'MAX_GATHER', 200)
    for name, call in calls.items():
        torch.testing.assert_close(call(), whole[name])


def plain_roi_pool(x, rois):
    def value(plane, roi, k, c, ph, pw):
        x1, y1 = roi[1] * SCALE, roi[2] * SCALE
        bw = ((roi[3] + 1) * SCALE - x1) / SIZE[1]
        bh = ((roi[4] + 1) * SCALE - y1) / SIZE[0]
        rows = range(
            max(int(np.floor(y1 + ph * bh)), 0),
            min(int(np.ceil(y1 + (ph + 1) * bh)), plane.shape[0]),
        )
        cols = range(
            max(int(np.floor(x1 + pw * bw)), 0),
            min(int(np.ceil(x1 + (pw + 1) * bw)), plane.shape[1]),
        )
        return max((plane[r, q] for r in rows for q in cols), default=0.0)

    return torch.from_numpy(over_bins(x.numpy(), rois.numpy(), SIZE, value))


def test_roi_pool(device):
    x = features()
    # Negative size, and width 0 although its bins round to a pixel.
    bad = torch.tensor([[0, 9, 9, 5, 5], [0, 5, 5, 4, 9]], dtype=torch.double)
    rois = torch.cat([ROIS, bad])
    expected = plain_roi_pool(x, rois)
    expected[-2:] = 0
    rois = rois.to(device)
    got = ops.roi_pool(x.to(device), rois, SIZE, SCALE)
    torch.testing.assert_close(got.cpu(), expected)
    assert got[:3].abs().min() > 0
    x = x.to(device).requires_grad_()
    assert gradcheck(
        lambda x: ops.roi_pool(x, rois, SIZE, SCALE),
        x,
        fast_mode=True,
        nondet_tol=1e-9,
    )


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('with_offset', [True, False])
def test_deform_roi_pool(ratio, with_offset, device):
    x = features()
    gen = torch.Generator().manual_seed(5)
    offset = torch.randn(4, 2, *SIZE, generator=gen, dtype=torch.double)

    def value(plane, roi, k, c, ph, pw):
        points, (h, w) = roi_samples(roi, ph, pw, SIZE, SCALE, ratio, True)
        dx, dy = offset[k, :, ph, pw].tolist() if with_offset else (0, 0)
        samples = [
            bilinear(plane, y + 0.2 * h * dy, xx + 0.2 * w * dx) for y, xx in points
        ]
        return sum(samples) / len(samples)

    expected = torch.from_numpy(over_bins(x.numpy(), ROIS.numpy(), SIZE, value))
    x, rois, offset = (t.to(device) for t in (x, ROIS, offset))
    args = (SIZE, SCALE, ratio, 0.2)
    given = offset if with_offset else None
    got = ops.deform_roi_pool(x, rois, given, *args)
    torch.testing.assert_close(got.cpu(), expected)
    x.requires_grad_()
    if with_offset:
        assert gradcheck(
            lambda x, o: ops.deform_roi_pool(x, rois, o, *args),
            (x, offset.requires_grad_()),
            fast_mode=True,
            nondet_tol=1e-9,
        )
    else:
        assert gradcheck(
            lambda x: ops.deform_roi_pool(x, rois, None, *args),
            x,
            fast_mode=True,
            nondet_tol=1e-9,
        )


def test_prroi_pool(device):
    """Against a midpoint sum so fine that only its own error is left."""
    x, fine = features(), 60

    def value(plane, roi, k, c, ph, pw):
        x1, y1, x2, y2 = (v * SCALE for v in roi[1:])
        bh, bw = (y2 - y1) / SIZE[0], (x2 - x1) / SIZE[1]
        padded = np.pad(plane, 1)  # zero outside, not the border's value
        total = 0.0
        for i in range(fine):
            for j in range(fine):
                y = y1 + (ph + (i + 0.5) / fine) * bh
                xx = x1 + (pw + (j + 0.5) / fine) * bw
                if -1 <= y <= plane.shape[0] and -1 <= xx <= plane.shape[1]:
                    total += bilinear(padded, y + 1, xx + 1)
        return total / fine**2

    rois = ROIS[:2].float()
    expected = over_bins(x[:, :1].numpy(), rois.numpy(), SIZE, value)
    x = x[:, :1].float().to(device)
    got = ops.prroi_pool(x, rois.to(device), SIZE, SCALE)
    torch.testing.assert_close(
        got.double().cpu(), torch.from_numpy(expected), rtol=0, atol=2e-3
    )


def test_prroi_pool_gradients(device):
    """The operator insists on float32, so its pieces are checked in float64."""
    import mmcv._ext as ext

    x, rois = features(device, 1), torch.cat([ROIS, EMPTY]).to(device)
    grad = torch.randn(5, 1, *SIZE, dtype=torch.double, device=device)
    args = dict(pooled_height=SIZE[0], pooled_width=SIZE[1], spatial_scale=SCALE)

    def loss(x, rois):
        out = torch.zeros_like(grad)
        ext.prroi_pool_forward(x, rois, out, **args)
        return (out * grad).sum().item()

    def slope(function, tensor, index, eps=1e-6):
        up, down = tensor.clone(), tensor.clone()
        up.view(-1)[index] += eps
        down.view(-1)[index] -= eps
        return (function(up) - function(down)) / (2 * eps)

    out = torch.zeros_like(grad)
    ext.prroi_pool_forward(x, rois, out, **args)
    assert not out[-1].any()
    grad_x, grad_rois = torch.zeros_like(x), torch.zeros_like(rois)
    ext.prroi_pool_backward(grad, rois, grad_x, **args)
    ext.prroi_pool_coor_backward(out, grad, x, rois, grad_rois, **args)
    for index in range(0, x.numel(), 7):
        expected = slope(lambda t: loss(t, rois), x, index)
        assert grad_x.view(-1)[index].item() == pytest.approx(expected, abs=1e-6)
    for index in (1, 2, 3, 4, 6, 7, 8, 9, 12):
        expected = slope(lambda t: loss(x, t), rois, index)
        assert grad_rois.view(-1)[index].item() == pytest.approx(expected, abs=1e-6)
    assert not grad_rois[:, 0].any()
    assert grad_rois.isfinite().all()


def test_border_align(device):
    x = features(channels=8)
    gen = torch.Generator().manual_seed(7)
    boxes = torch.rand(2, 5, 4, generator=gen, dtype=torch.double) * 4
    boxes[..., 2:] += boxes[..., :2]
    expected = torch.zeros(2, 2, 5, 4, dtype=torch.double)
    for n, c, b, side in np.ndindex(2, 2, 5, 4):
        x1, y1, x2, y2 = boxes[n, b].tolist()
        ends = {
            0: ((y1, x1), (y1, x2)),
            1: ((y1, x1), (y2, x1)),
            2: ((y2, x2), (y2, x1)),
            3: ((y2, x2), (y1, x2)),
        }[side]
        plane = x[n, 2 * side + c].numpy()
        expected[n, c, b, side] = max(
            bilinear(plane, *(s + (e - s) * i / 3 for s, e in zip(*ends, strict=True)))
            for i in range(4)
        )
    boxes = boxes.to(device)
    got = ops.border_align(x.to(device), boxes, 3)
    torch.testing.assert_close(got.cpu(), expected)
    x = x.to(device).requires_grad_()
    assert gradcheck(
        lambda x: ops.border_align(x, boxes, 3), x, fast_mode=True, nondet_tol=1e-9
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision(dtype, device):
    x, rois = features(device).to(dtype), ROIS[:3].to(device, dtype)
    for op in (
        lambda x, r: ops.roi_align(x, r, SIZE, SCALE, 2, 'avg', True),
        lambda x, r: ops.roi_align(x, r, SIZE, SCALE, 2, 'max', True),
        lambda x, r: ops.roi_pool(x, r, SIZE, SCALE),
        lambda x, r: ops.deform_roi_pool(x, r, None, SIZE, SCALE, 2),
    ):
        exact = op(x.double(), rois.double()).to(dtype)
        leaf = x.clone().requires_grad_()
        got = op(leaf, rois)
        torch.testing.assert_close(got, exact)
        got.sum().backward()
        assert leaf.grad.dtype == dtype
        assert leaf.grad.abs().sum() > 0


def test_boxes_that_are_not_finite_do_not_crash(device):
    x = features(device).requires_grad_()
    rois = ROIS.to(device).repeat(2, 1)
    rois[1, 2], rois[2, 3], rois[3, 4] = torch.nan, torch.inf, -torch.inf
    for op in (
        lambda r: ops.roi_align(x, r, SIZE, SCALE, 2, 'avg', True),
        lambda r: ops.roi_align(x, r, SIZE, SCALE, 0, 'max', True),
        lambda r: ops.roi_pool(x, r, SIZE, SCALE),
        lambda r: ops.deform_roi_pool(x, r, None, SIZE, SCALE),
    ):
        out = op(rois)
        torch.testing.assert_close(out[4:], op(ROIS.to(device)))
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.isfinite().all()
