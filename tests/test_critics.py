"""The critic of structured distillation: shapes, sizes, spectral norm, attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkd.critics import SelfAttention, SelfAttentionCritic
from mmkd.losses import gradient_penalty


@pytest.mark.parametrize('norm', ['batch', None])
@pytest.mark.parametrize(
    'size',
    [(8, 12), (12, 8), (1, 1), (64, 64), (65, 65), (65, 129), (64, 128)],
    ids=str,
)
def test_any_size_gives_a_score_per_image(size, norm):
    critic = SelfAttentionCritic(3, norm=norm, channels=2)
    x = torch.randn(2, 3, *size, requires_grad=True)
    scores = critic(x)
    assert scores.shape == (2,)
    scores.sum().backward()
    assert x.grad.isfinite().all()
    assert all(
        p.grad.isfinite().all() for p in critic.parameters() if p.grad is not None
    )


def test_small_maps_are_enlarged_until_the_shorter_side_is_65():
    critic = SelfAttentionCritic(3, norm=None, channels=2).eval()
    x = torch.randn(2, 3, 8, 12)
    larger = F.interpolate(x, (65, 98), mode='bilinear', align_corners=False)
    torch.testing.assert_close(critic(x), critic(larger))


def test_its_layers_are_those_of_the_paper():
    critic = SelfAttentionCritic(19)
    shapes = [
        (c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in critic.convs
    ]
    widths = [19, 64, 128, 256, 512]
    assert shapes == [(a, b, (4, 4), (2, 2)) for a, b in zip(widths, widths[1:])]
    assert [a.value.in_channels for a in critic.attentions] == [256, 512]
    assert [a.query.out_channels for a in critic.attentions] == [32, 64]
    assert (critic.last.in_channels, critic.last.out_channels) == (512, 1)
    assert all(a.gain.item() == 0 for a in critic.attentions)
    assert isinstance(critic.norm, nn.BatchNorm2d)


def test_convolutions_have_a_largest_singular_value_of_one():
    critic = SelfAttentionCritic(3, channels=2)
    with torch.no_grad():
        for conv in critic.convs:
            conv.parametrizations.weight.original.mul_(7)
    for _ in range(30):  # one power iteration each
        critic(torch.randn(1, 3, 65, 65))
    critic.eval()
    for conv in critic.convs:
        largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)
    assert torch.linalg.matrix_norm(critic.last.weight.flatten(1), 2) != 1


def test_self_attention_by_hand():
    attention = SelfAttention(8)
    x = torch.randn(2, 8, 2, 3)
    assert torch.equal(attention(x), x)  # the gain starts at 0
    nn.init.constant_(attention.gain, 0.5)
    expected = x.clone()
    for n in range(2):
        q, k, v = (
            (f.weight[:, :, 0, 0] @ x[n].flatten(1) + f.bias[:, None]).T
            for f in (attention.query, attention.key, attention.value)
        )
        for i in range(6):
            weights = torch.stack([q[i] @ k[j] for j in range(6)]).softmax(0)
            mixed = sum(w * v[j] for j, w in enumerate(weights))
            expected[n, :, i // 3, i % 3] += 0.5 * mixed
    torch.testing.assert_close(attention(x), expected)


def test_batch_statistics_are_those_of_the_batch_also_in_eval():
    critic = SelfAttentionCritic(3, channels=2).eval()
    x = torch.randn(4, 3, 65, 65)
    torch.testing.assert_close(critic(x * 5 + 3), critic(x), rtol=1e-4, atol=1e-4)
    assert not any('running' in name for name in critic.state_dict())


def test_without_norm_the_penalty_is_that_of_each_image():
    critic = SelfAttentionCritic(3, norm=None, channels=2).eval()
    real, fake = torch.randn(2, 3, 3, 8, 12)
    mix = torch.rand(3)
    alone = [
        gradient_penalty(critic, real[i : i + 1], fake[i : i + 1], mix[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(
        gradient_penalty(critic, real, fake, mix), sum(alone) / 3, rtol=1e-4, atol=1e-6
    )


def test_rejects():
    with pytest.raises(ValueError, match="norm must be one of .* but is 'layer'"):
        SelfAttentionCritic(3, norm='layer')
    with pytest.raises(ValueError, match='channels must be >= 2 but is 1'):
        SelfAttentionCritic(3, channels=1)
