"""mmcv's synchronised batch normalisation and the StyleGAN operators."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mmkd.compat.ext import install_ops

install_ops()
ops = pytest.importorskip('mmcv.ops')


@pytest.fixture
def world_of_one(tmp_path):
    dist.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures('world_of_one')
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('stats_mode', ['default', 'N'])
def test_sync_bn_of_one_process_is_batch_norm(stats_mode, affine):
    """Values, running statistics and gradients equal those of BatchNorm2d."""
    sync = ops.SyncBatchNorm(3, momentum=0.2, affine=affine, stats_mode=stats_mode)
    plain = torch.nn.BatchNorm2d(3, momentum=0.2, affine=affine)
    if affine:
        plain.load_state_dict(sync.state_dict())
    x = torch.randn(4, 3, 5, 6) * 2 + 1
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    weight = torch.randn(4, 3, 5, 6)
    results = [m(leaf) for m, leaf in zip((sync, plain), leaves, strict=True)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(sync.running_mean, plain.running_mean)
    torch.testing.assert_close(sync.running_var, plain.running_var)
    assert (plain.running_mean - 0.2).abs().max() < 0.1
    if not affine:
        return  # mmcv's own backward needs a weight
    for result in results:
        (result * weight).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sync.weight.grad, plain.weight.grad)
    torch.testing.assert_close(sync.bias.grad, plain.bias.grad)


def test_sync_bn_steps_of_two_processes():
    """The steps, with the averages over processes taken by hand."""
    import mmcv._ext as ext

    x = torch.randn(4, 3, 7) * 2 + 1
    halves = x[:2], x[2:]
    means = [torch.zeros(3) for _ in halves]
    for half, mean in zip(halves, means, strict=True):
        ext.sync_bn_forward_mean(half, mean)
    mean = sum(means) / 2
    torch.testing.assert_close(mean, x.mean((0, 2)))
    variances = [torch.zeros(3) for _ in halves]
    for half, var in zip(halves, variances, strict=True):
        ext.sync_bn_forward_var(half, mean, var)
    var = sum(variances) / 2
    torch.testing.assert_close(var, x.var((0, 2), unbiased=False))
    plain = torch.nn.BatchNorm1d(3)
    running = [torch.zeros(3), torch.ones(3)]
    out, norm, std = torch.zeros(2, 3, 7), torch.zeros(2, 3, 7), torch.zeros(3)
    ext.sync_bn_forward_output(
        halves[0],
        mean,
        var,
        torch.ones(3),
        torch.zeros(3),
        *running,
        norm,
        std,
        out,
        eps=1e-5,
        momentum=torch.tensor([0.1]),
        group_size=2,
    )
    torch.testing.assert_close(out, plain(x)[:2])
    torch.testing.assert_close(running, [plain.running_mean, plain.running_var])
    torch.testing.assert_close(std, (var + 1e-5).sqrt())


def test_fused_bias_leaky_relu(device):
    import mmcv._ext as ext

    x = torch.randn(2, 3, 4, 2, device=device)
    bias = torch.tensor([0.5, -0.5, 0.1], device=device)
    none = x.new_empty(0)
    args = dict(act=3, alpha=0.2, scale=1.4)
    out = ext.fused_bias_leakyrelu(x, bias, none, grad=0, **args)
    for n, c, i, j in np.ndindex(*x.shape):
        value = (x[n, c, i, j] + bias[c]).item()
        expected = 1.4 * (value if value > 0 else 0.2 * value)
        assert out[n, c, i, j].item() == pytest.approx(expected, rel=1e-5)
    slope = ext.fused_bias_leakyrelu(torch.ones_like(x), none, out, grad=1, **args)
    expected = torch.where(out > 0, torch.tensor(1.4), torch.tensor(0.28))
    torch.testing.assert_close(slope, expected)
    linear = ext.fused_bias_leakyrelu(x, bias, none, 1, 0, 0.2, 2.0)
    torch.testing.assert_close(linear, 2 * (x + bias.view(3, 1, 1)))
    assert not ext.fused_bias_leakyrelu(x, none, out, grad=2, **args).any()


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('pad', [(1, 2, 0, 1), (-1, 2, 1, -1)])
def test_upfirdn2d(flip, pad, device):
    import mmcv._ext as ext

    x, kernel = torch.randn(1, 2, 4, 5), torch.randn(2, 3)
    up, down, gain = (2, 3), (1, 2), 1.5  # (x, y)
    wide = np.zeros((2, 4 * up[1], 5 * up[0]))
    wide[:, :: up[1], :: up[0]] = x[0].numpy()
    height, width = wide.shape[1] + pad[2] + pad[3], wide.shape[2] + pad[0] + pad[1]
    taps = kernel.numpy() if flip else kernel.numpy()[::-1, ::-1]
    rows, cols = (height - 2) // down[1] + 1, (width - 3) // down[0] + 1
    expected = np.zeros((2, rows, cols))
    for c, i, j, p, q in np.ndindex(2, rows, cols, 2, 3):
        y, xx = i * down[1] + p - pad[2], j * down[0] + q - pad[0]
        if 0 <= y < wide.shape[1] and 0 <= xx < wide.shape[2]:
            expected[c, i, j] += gain * taps[p, q] * wide[c, y, xx]
    got = ext.upfirdn2d(
        x.to(device), kernel.to(device), *up, *down, *pad, flip, gain
    ).cpu()
    torch.testing.assert_close(
        got[0].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5
    )
