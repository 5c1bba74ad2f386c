"""Plain loops that operators are compared with; they share nothing with them."""

import math

import numpy as np


def iou(a, b, offset=0):
    """IoU of two boxes in plain Python."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + offset
    h = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(w, 0) * max(h, 0)
    area = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area += (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    return inter / (area - inter)


def bilinear(image, y, x, border=True):
    """Value of image (H, W) at (y, x).

    With ``border``, points up to one pixel outside take the border's value
    (RoI operators); without it, pixels outside are zero (deformable ones).
    """
    height, width = image.shape
    if border:
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row in (top, top + 1):
        for col in (left, left + 1):
            if 0 <= row < height and 0 <= col < width:
                value += image[row, col] * (1 - abs(y - row)) * (1 - abs(x - col))
    return value


def roi_samples(roi, ph, pw, size, scale, ratio, aligned):
    """Sampling points of bin (ph, pw), with the RoI's (y, x) extent."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (v * scale - shift for v in roi[1:])
    h, w = y2 - y1, x2 - x1
    if not aligned:
        h, w = max(h, 1.0), max(w, 1.0)
    bh, bw = h / size[0], w / size[1]
    gh = ratio if ratio > 0 else math.ceil(bh)
    gw = ratio if ratio > 0 else math.ceil(bw)
    points = [
        (y1 + ph * bh + (i + 0.5) * bh / gh, x1 + pw * bw + (j + 0.5) * bw / gw)
        for i in range(gh)
        for j in range(gw)
    ]
    return points, (h, w)


def over_bins(image, rois, size, function):
    """Apply function(plane, roi, k, c, ph, pw) to every output element."""
    out = np.zeros((len(rois), image.shape[1], *size))
    for k, roi in enumerate(rois):
        for c in range(image.shape[1]):
            for ph in range(size[0]):
                for pw in range(size[1]):
                    plane = image[int(roi[0]), c]
                    out[k, c, ph, pw] = function(plane, roi, k, c, ph, pw)
    return out


def deform_conv(x, offset, mask, weight, bias, stride, pad, dilation, groups, dgroups):
    """Deformable convolution by its definition; (h, w) pairs; mask may be None."""
    num, cin, height, width = x.shape
    cout, cpg, kh, kw = weight.shape
    oh = (height + 2 * pad[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + 2 * pad[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((num, cout, oh, ow))
    for n, o, i, j in np.ndindex(*out.shape):
        group = o // (cout // groups)
        total = 0.0 if bias is None else bias[o]
        for c, p, q in np.ndindex(cpg, kh, kw):
            channel = group * cpg + c
            d = channel // (cin // dgroups)
            tap = d * kh * kw + p * kw + q
            dy, dx = offset[n, 2 * tap, i, j], offset[n, 2 * tap + 1, i, j]
            y = i * stride[0] - pad[0] + p * dilation[0] + dy
            xx = j * stride[1] - pad[1] + q * dilation[1] + dx
            value = bilinear(x[n, channel], y, xx, border=False)
            if mask is not None:
                value *= mask[n, tap, i, j]
            total += weight[o, c, p, q] * value
        out[n, o, i, j] = total
    return out
