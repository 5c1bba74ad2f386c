"""Deformable convolutions against their definition written as loops."""

import numpy as np
import pytest
import torch
from ops_reference import deform_conv
from torch.autograd import gradcheck

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')

SETTINGS = {
    'plain': dict(stride=(1, 1), pad=(1, 1), dilation=(1, 1), groups=1, dgroups=1),
    'strided': dict(stride=(2, 1), pad=(0, 1), dilation=(1, 2), groups=1, dgroups=2),
    'grouped': dict(stride=(1, 1), pad=(1, 1), dilation=(1, 1), groups=2, dgroups=2),
}


def make(stride, pad, dilation, groups, dgroups, kernel=(3, 2), size=(5, 6)):
    """Random input, offset, mask, weight, bias that fit the settings."""
    gen = torch.Generator().manual_seed(1)
    taps = kernel[0] * kernel[1]
    out = [
        (size[i] + 2 * pad[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    shapes = dict(
        x=(2, 4, *size),
        offset=(2, 2 * dgroups * taps, *out),
        mask=(2, dgroups * taps, *out),
        weight=(2, 4 // groups, *kernel),
        bias=(2,),
    )
    return {
        name: torch.randn(shape, generator=gen, dtype=torch.double)
        for name, shape in shapes.items()
    }


def call(tensors, settings, modulated):
    s = settings
    tail = (s['stride'], s['pad'], s['dilation'], s['groups'], s['dgroups'])
    t = tensors
    if modulated:
        return ops.modulated_deform_conv2d(
            t['x'], t['offset'], t['mask'], t['weight'], t['bias'], *tail
        )
    return ops.deform_conv2d(t['x'], t['offset'], t['weight'], *tail)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('name', SETTINGS)
def test_forward(name, modulated, device):
    settings, tensors = SETTINGS[name], make(**SETTINGS[name])
    arrays = {k: v.numpy() for k, v in tensors.items()}
    if not modulated:
        arrays.update(mask=None, bias=None)
    expected = torch.from_numpy(deform_conv(**arrays, **settings))
    got = call({k: v.to(device) for k, v in tensors.items()}, settings, modulated)
    torch.testing.assert_close(got.cpu(), expected)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('name', SETTINGS)
def test_gradients(name, modulated, device):
    tensors = {
        k: v.to(device).requires_grad_() for k, v in make(**SETTINGS[name]).items()
    }
    names = ['x', 'offset', 'weight'] + (['mask', 'bias'] if modulated else [])
    assert gradcheck(
        lambda *values: call(
            {**tensors, **dict(zip(names, values, strict=True))},
            SETTINGS[name],
            modulated,
        ),
        [tensors[n] for n in names],
        fast_mode=True,
        nondet_tol=1e-9,
    )


def test_zero_offset_is_an_ordinary_convolution():
    tensors = make(**SETTINGS['grouped'])
    tensors['offset'].zero_()
    tensors['mask'].fill_(1)
    got = call(tensors, SETTINGS['grouped'], modulated=True)
    expected = torch.nn.functional.conv2d(
        tensors['x'], tensors['weight'], tensors['bias'], 1, 1, 1, 2
    )
    torch.testing.assert_close(got, expected)


def test_the_batch_step_and_batch_size_do_not_matter():
    tensors = make(**SETTINGS['plain'])
    args = tensors['x'], tensors['offset'], tensors['weight'], 1, 1, 1, 1, 1, False
    whole = ops.deform_conv2d(*args, 2)
    torch.testing.assert_close(whole, ops.deform_conv2d(*args, 1))
    single = [t[1:] if i < 2 else t for i, t in enumerate(args[:3])]
    torch.testing.assert_close(whole[1:], ops.deform_conv2d(*single, *args[3:], 32))


def test_offset_of_a_finer_level_is_read_from_its_beginning():
    """DyHead passes offset and mask of a map twice as large as the output."""
    settings = SETTINGS['plain']
    tensors = make(**settings)
    fine = make(**settings, size=(10, 12))
    tensors.update(offset=fine['offset'], mask=fine['mask'])
    arrays = {k: v.numpy() for k, v in tensors.items()}
    # The kernel 3 x 2 gives 5 x 7 positions.
    for key, channels in (('offset', 12), ('mask', 6)):
        flat = np.stack([image.ravel()[: channels * 35] for image in arrays[key]])
        arrays[key] = flat.reshape(2, channels, 5, 7)
    expected = torch.from_numpy(deform_conv(**arrays, **settings))
    for value in tensors.values():
        value.requires_grad_()
    got = call(tensors, settings, modulated=True)
    torch.testing.assert_close(got, expected)

    got.square().sum().backward()
    grad = tensors['offset'].grad.flatten(1)
    assert (grad[:, : 12 * 35] != 0).float().mean() > 0.5
    assert not grad[:, 12 * 35 :].any()
    assert gradcheck(
        lambda offset, mask: call(
            {**tensors, 'offset': offset, 'mask': mask}, settings, True
        ),
        (tensors['offset'], tensors['mask']),
        fast_mode=True,
    )


def test_too_small_an_offset_is_an_error():
    tensors = make(**SETTINGS['plain'])
    tensors['offset'] = tensors['offset'][..., :3, :3]
    with pytest.raises(ValueError, match=r'12 x 5 x 7 values per image'):
        call(tensors, SETTINGS['plain'], modulated=True)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('modulated', [False, True])
def test_low_precision(dtype, modulated, device):
    settings = SETTINGS['plain']
    tensors = {k: v.to(device, dtype) for k, v in make(**settings).items()}
    exact = call({k: v.double() for k, v in tensors.items()}, settings, modulated)
    for value in tensors.values():
        value.requires_grad_()
    got = call(tensors, settings, modulated)
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype))
    got.sum().backward()
    assert tensors['weight'].grad.dtype == dtype
    assert tensors['offset'].grad.abs().sum() > 0


def test_autocast_computes_in_float32(device):
    """Inside autocast the offset comes in half and the input is cast to it."""
    layer = ops.ModulatedDeformConv2dPack(4, 3, 3, padding=1).to(device)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 4, 6, 6, device=device)
    dtype = torch.float16 if device.type == 'cuda' else torch.bfloat16
    plain = layer(x)
    with torch.autocast(device.type, dtype=dtype):
        mixed = layer(x)
    mixed.float().sum().backward()
    torch.testing.assert_close(mixed.float(), plain, rtol=0.1, atol=0.1)
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize('modulated', [False, True])
def test_nan_offsets_sample_outside_of_the_map(modulated, device):
    """torchvision's kernel alone crashes the process on them."""
    settings = SETTINGS['plain']
    tensors = {k: v.to(device) for k, v in make(**settings).items()}
    far, nan = dict(tensors), dict(tensors)
    hit = torch.rand_like(tensors['offset']) < 0.3
    far['offset'] = tensors['offset'].masked_fill(hit, 1e4)
    nan['offset'] = tensors['offset'].masked_fill(hit, torch.nan).requires_grad_()
    got = call(nan, settings, modulated)
    torch.testing.assert_close(got, call(far, settings, modulated))
    got.sum().backward()
    assert nan['offset'].grad.isfinite().all()
