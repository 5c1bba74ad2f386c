"""Losses of generators and discriminators, against plain Python."""

import math

import pytest
import torch

from mmkd.losses import discriminator_loss, generator_loss

FAKE = [-2.3, -0.7, 0.0, 0.4, 1.9, -1.1]
REAL = [1.7, 0.2, -0.5, 3.0]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


PLAIN = dict(
    hinge=(
        lambda s: max(0.0, 1 + s),
        lambda s: max(0.0, 1 - s),
        lambda s: -s,
    ),
    lsgan=(lambda s: s**2, lambda s: (s - 1) ** 2, lambda s: (s - 1) ** 2),
    vanilla=(
        lambda s: -math.log(1 - 1 / (1 + math.exp(-s))),
        lambda s: -math.log(1 / (1 + math.exp(-s))),
        lambda s: -math.log(1 / (1 + math.exp(-s))),
    ),
)


@pytest.mark.parametrize('mode', PLAIN)
def test_equal_plain_python(mode):
    fake = torch.tensor(FAKE, dtype=torch.float64).view(2, 1, 3, 1)
    real = torch.tensor(REAL, dtype=torch.float64).view(1, 1, 2, 2)
    of_fake, of_real, wanted = PLAIN[mode]
    expected = (mean(map(of_fake, FAKE)) + mean(map(of_real, REAL))) / 2
    assert discriminator_loss(fake, real, mode).item() == pytest.approx(expected)
    assert generator_loss(fake, mode).item() == pytest.approx(mean(map(wanted, FAKE)))


@pytest.mark.parametrize('mode', PLAIN)
def test_gradients(mode):
    fake, real = (
        torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        for scores in (FAKE, REAL)
    )
    torch.autograd.gradcheck(
        lambda *scores: discriminator_loss(*scores, mode), (fake, real)
    )
    torch.autograd.gradcheck(lambda scores: generator_loss(scores, mode), (fake,))


@pytest.mark.parametrize('mode', PLAIN)
def test_half_precision_is_computed_in_float32(mode):
    fake = torch.tensor(FAKE, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        found = generator_loss(fake, mode)
    assert found.dtype == torch.float32
    assert torch.equal(found, generator_loss(fake.float(), mode))


def test_an_unknown_mode_is_a_sentence():
    with pytest.raises(ValueError, match="must be one of .* but is 'wgan'"):
        generator_loss(torch.zeros(1), 'wgan')
    with pytest.raises(ValueError, match="must be one of .* but is 'wgan'"):
        discriminator_loss(torch.zeros(1), torch.zeros(1), 'wgan')
