"""Holistic loss: penalty against derivatives by hand, and how the critic is trained."""

import copy
import math
import pickle

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from mmkd.batch import Batch
from mmkd.critics import SelfAttentionCritic
from mmkd.losses import HolisticLoss, gradient_penalty
from mmkd.registry import MODELS

FUNCTION = gradient_penalty
# Samples, length of a sample.
CASES = [(1, 3), (4, 2), (3, 5)]
MUTATIONS = {
    'no square of the distance': ('(norms - 1).square()', '(norms - 1).abs()'),
    'another slope wanted': ('norms - 1', 'norms'),
    'squared norm': (').sqrt()', ')'),
    'one norm for all': ('.flatten(1).square().sum(1)', '.square().sum()[None]'),
    'sum over samples': (' / max(len(real), 1)', ''),
    'mixed the other way': ('share * real + (1 - share) * fake',
                            'share * fake + (1 - share) * real'),
    'real samples alone': ('share * real + (1 - share) * fake', 'real + 0 * fake'),
}  # fmt: skip


def drawn(samples: int, length: int):
    torch.manual_seed(1)
    real, fake = torch.randn(2, samples, length, dtype=torch.float64)
    return real, fake, torch.rand(samples, dtype=torch.float64)


def cubes(x: torch.Tensor) -> torch.Tensor:
    """A critic whose slope at x is x^2."""
    return (x**3 / 3).sum(1)


def reference(real, fake, mix) -> float:
    total = 0.0
    for n in range(len(real)):
        u = mix[n].item()
        point = [
            u * r + (1 - u) * f for r, f in zip(real[n].tolist(), fake[n].tolist())
        ]
        norm = math.sqrt(sum((x * x) ** 2 for x in point))
        total += (norm - 1) ** 2
    return total / len(real)


def compare(function, samples, length) -> None:
    real, fake, mix = drawn(samples, length)
    actual = function(cubes, real, fake, mix).item()
    assert actual == pytest.approx(reference(real, fake, mix), rel=1e-9)


@pytest.mark.parametrize(('samples', 'length'), CASES)
def test_equals_the_formula(samples, length):
    compare(gradient_penalty, samples, length)


def test_one_random_share_per_sample():
    torch.manual_seed(3)
    mix = torch.rand(4)
    real, fake = torch.randn(2, 4, 2, 3, 3)
    torch.manual_seed(3)
    drawn = gradient_penalty(lambda x: cubes(x.flatten(1)), real, fake)
    given = gradient_penalty(lambda x: cubes(x.flatten(1)), real, fake, mix)
    torch.testing.assert_close(drawn, given)


def test_its_gradient_is_exact():
    """With regard to the critic's weights, through the spectral norm, and the maps."""
    critic = SelfAttentionCritic(2, norm=None, channels=2).double().eval()
    for attention in critic.attentions:
        nn.init.constant_(attention.gain, 0.5)  # it starts at 0, out of the way
    names, weights = zip(*critic.named_parameters())
    real, fake = torch.randn(2, 2, 2, 3, 4, dtype=torch.float64)
    mix = torch.tensor([0.2, 0.7], dtype=torch.float64)

    def penalty(real, fake, *weights):
        def score(x):
            return torch.func.functional_call(critic, dict(zip(names, weights)), (x,))

        return gradient_penalty(score, real, fake, mix)

    leaves = [x.detach().clone().requires_grad_() for x in (real, fake, *weights)]
    assert torch.autograd.gradcheck(penalty, leaves, fast_mode=True)
    gradients = torch.autograd.grad(
        penalty(*leaves), leaves, allow_unused=True, materialize_grads=True
    )
    trained = {n for n, g in zip(names, gradients[2:]) if g.abs().max() > 1e-9}
    assert {'last.weight', 'convs.0.parametrizations.weight.original'} <= trained


def test_flat_and_empty():
    real, fake = torch.randn(2, 3, 4)
    assert gradient_penalty(lambda x: x.sum(1) * 0, real, fake).item() == pytest.approx(
        1, abs=1e-5
    )
    assert gradient_penalty(lambda x: x[:, 0], real, fake).item() == pytest.approx(
        0, abs=1e-9
    )
    assert gradient_penalty(lambda x: x[:, 0], real[:0], fake[:0]).item() == 0


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r'have \(2, 3\) and \(2, 4\)'):
        gradient_penalty(cubes, torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r'mix must have shape \(2,\)'):
        gradient_penalty(cubes, torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 1))


@MODELS.register_module(force=True)
class LinearCritic(nn.Module):
    """D(x) = w times the mean of each channel: all can be done by hand."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, in_channels + 1))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight


SGD = dict(type='SGD')


@pytest.fixture(autouse=True)
def _no_run_before():
    """Scope and length of a run that another test made would be ours."""
    for kind in (DefaultScope, MessageHub):
        kind._instance_dict.clear()


def linear(**arguments) -> HolisticLoss:
    critic = dict(type='LinearCritic', in_channels=2)
    arguments = dict(dict(critic_lr=0.1, critic_optimizer=SGD), **arguments)
    return HolisticLoss(at='head', critic=critic, **arguments)


def maps(seed: int = 0, shape=(3, 2, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator)


def batch_for(x, sizes=None) -> Batch:
    sizes = sizes or [tuple(x.shape[2:])] * len(x)
    samples = [BaseDataElement(metainfo=dict(img_shape=size)) for size in sizes]
    return Batch(torch.randn(len(x), 3, *x.shape[2:]), samples)


def test_the_student_is_told_what_the_critic_thought_before_its_step():
    loss = linear(loss_weight=0.1)
    s, t = maps()
    s.requires_grad_()
    weight = loss.critic.weight.detach().clone()
    value = loss(s, t)
    value.backward()
    expected = -0.1 * (s.mean((2, 3)) @ weight).mean()
    torch.testing.assert_close(value, expected)
    expected = (-0.1 * weight / 3 / 16)[None, :, None, None].expand_as(s)
    torch.testing.assert_close(s.grad, expected)
    assert not torch.equal(loss.critic.weight, weight)


def test_a_step_of_the_critic():
    """By hand: w moves along E[t] - E[s], against the penalty's pull to slope 1."""
    loss = linear(gp_weight=3.0)
    s, t = maps()
    w = loss.critic.weight.detach().clone()
    batch = batch_for(s)
    loss(s, t, batch)
    gap = t.mean((0, 2, 3)) - s.mean((0, 2, 3))
    # The slope is w_c / 16 at each of 16 cells: its norm |w| / 4 wherever it is taken.
    norm = w.norm() / 4
    penalty = (norm - 1).square()
    gradient = -gap + 3 * 2 * (norm - 1) * w / w.norm() / 4
    torch.testing.assert_close(loss.critic.weight.detach(), w - 0.1 * gradient)
    torch.testing.assert_close(batch.logs['gap'], gap @ w)
    torch.testing.assert_close(batch.logs['penalty'], penalty)
    assert batch.logs['skipped'] == 0
    assert not any('loss' in key for key in batch.logs)  # those would be added up
    assert loss.critic.weight.grad is None


def test_several_steps_per_iteration():
    s, t = maps()
    once, thrice = linear(), linear(critic_steps=3)
    for _ in range(3):
        once(s, t)
    thrice(s, t)
    torch.testing.assert_close(once.critic.weight, thrice.critic.weight)
    assert once.adversary.steps == thrice.adversary.steps == 3


def test_the_critic_learns_and_the_student_follows():
    torch.manual_seed(0)
    critic = dict(type='mmkd.SelfAttentionCritic', in_channels=3, channels=4, norm=None)
    loss = HolisticLoss(at='head', loss_weight=1.0, critic=critic, critic_lr=2e-3)
    t = torch.randn(4, 3, 6, 6) + torch.tensor([2.0, 0, -2])[:, None, None]
    s = torch.randn(4, 3, 6, 6).requires_grad_()
    batch = batch_for(s)
    loss(s, t, batch)
    before = batch.logs['gap'].item()
    for _ in range(25):
        loss(s, t, batch)
    assert batch.logs['gap'].item() > before + 0.1
    start = (s - t).mean((0, 2, 3)).norm().item()
    optimizer = torch.optim.SGD([s], lr=20.0)
    for _ in range(25):
        optimizer.zero_grad()
        loss(s, t, batch).backward()
        optimizer.step()
    assert (s - t).mean((0, 2, 3)).norm().item() < start


@pytest.mark.parametrize('mode', ['eval', 'no_grad'])
def test_nothing_is_learnt_in_validation(mode):
    loss = linear()
    s, t = maps()
    before = copy.deepcopy(loss.state_dict())
    with torch.set_grad_enabled(mode != 'no_grad'):
        loss.train(mode != 'eval')(s, t)
    assert loss.state_dict()['_extra_state']['steps'] == 0
    critic = before['_extra_state']['critic']['weight']
    assert torch.equal(critic, loss.critic.weight)


def test_the_critic_is_nobody_elses():
    loss = linear()
    parent = nn.Sequential(loss)
    assert list(parent.parameters()) == []
    assert len(list(parent.modules())) == 2
    assert set(parent.state_dict()) == {'0._extra_state'}


@pytest.mark.parametrize('how', ['state', 'deepcopy', 'pickle'])
def test_goes_on_from_its_state_as_if_nothing_had_happened(how):
    def build():
        torch.manual_seed(4)
        critic = dict(type='mmkd.SelfAttentionCritic', channels=2, in_channels=3)
        return HolisticLoss(at='head', critic=critic)

    pairs = [maps(i, (2, 3, 6, 5)) for i in range(6)]
    straight, first = build(), build()
    values = [straight(*pair).item() for pair in pairs]
    for pair in pairs[:3]:
        first(*pair)
    rng = torch.get_rng_state()
    if how == 'state':
        torch.manual_seed(99)
        again = HolisticLoss(at='head', critic=dict(first._critic_config))
        again.load_state_dict(copy.deepcopy(first.state_dict()))
    elif how == 'deepcopy':
        again = copy.deepcopy(first)
    else:
        again = pickle.loads(pickle.dumps(first))
    if how != 'state':
        assert torch.equal(rng, torch.get_rng_state())
    assert [again(*pair).item() for pair in pairs[3:]] == values[3:]
    # A copy is a copy.
    assert first.adversary.steps == 3


def test_a_state_without_critic_is_refused():
    loss = linear()
    with pytest.raises(
        RuntimeError, match='the state has no critic and the loss a cri'
    ):
        loss.load_state_dict({'_extra_state': {}})
    with pytest.raises(RuntimeError, match='Missing key'):
        loss.load_state_dict({})


def test_interpolation_follows_from_seed_step_and_index():
    loss = linear()
    adversary = loss.adversary
    adversary.seed = 5
    first = adversary._mix(4)
    assert ((first >= 0) & (first < 1)).all()
    assert len(set(first.tolist())) == 4
    assert torch.equal(first[:2], adversary._mix(2))
    adversary.steps = 1
    assert not torch.equal(first, adversary._mix(4))
    adversary.steps, adversary.seed = 0, 6
    assert not torch.equal(first, adversary._mix(4))


def test_training_does_not_move_the_random_state():
    loss = linear()
    rng = torch.get_rng_state()
    loss(*maps())
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_what_is_not_finite_poisons_nothing(bad, side, caplog):
    loss = linear()
    s, t = maps()
    batch = batch_for(s)
    loss(s, t, batch)
    weight = loss.critic.weight.detach().clone()
    (s if side == 'student' else t)[1, 0, 2, 2] = bad
    s.requires_grad_()
    value = loss(s, t, batch)
    value.backward()
    assert value.isfinite()
    assert s.grad.isfinite().all()
    assert torch.equal(loss.critic.weight, weight)
    assert batch.logs['skipped'] == 1
    loss(*maps(1), batch)
    assert not torch.equal(loss.critic.weight, weight)
    assert batch.logs['skipped'] == 1
    assert loss.critic.weight.isfinite().all()


def test_a_skipped_step_is_reported(monkeypatch):
    from mmkd.losses import adversary

    said = []
    monkeypatch.setattr(adversary, 'print_log', lambda text, **_: said.append(text))
    s, t = maps()
    linear()(s * float('nan'), t)
    assert 'a step of the critic was left out' in said[0]
    loss, said[:] = linear(), []
    for _ in range(11):
        loss(s * float('nan'), t)
    assert len(said) == 2  # the first and the tenth


def test_padding_is_seen_by_nobody():
    s, t = maps()
    sizes = [(4, 2), (4, 4), (3, 4)]
    mask = torch.ones(3, 1, 4, 4)
    mask[0, :, :, 2:], mask[2, :, 3:] = 0, 0
    masked, given = linear(), linear()
    s.requires_grad_()
    value = masked(s, t, batch_for(s, sizes))
    torch.testing.assert_close(value, given(s * mask, t * mask, batch_for(s)))
    torch.testing.assert_close(masked.critic.weight, given.critic.weight)
    value.backward()
    assert (s.grad * (1 - mask)).abs().max() == 0


def test_slopes_per_root_mean_square_do_not_depend_on_the_size_of_a_map():
    """Four times the cells: the same penalty, a quarter of the gradient per value."""
    found = {}
    for norm in ('l2', 'rms'):
        for side in (4, 8):
            s, t = (x[..., :1, :1].expand(3, 2, side, side).clone() for x in maps())
            loss, batch = linear(gp_norm=norm), batch_for(s)
            loss(s, t, batch)
            found[norm, side] = batch.logs['penalty'].item()
    # |w| / sqrt(cells) of slope, times sqrt(2 channels x cells).
    weight = linear().critic.weight.norm().item()
    assert found['rms', 4] == pytest.approx((weight * 2**0.5 - 1) ** 2, rel=1e-4)
    assert found['rms', 8] == pytest.approx(found['rms', 4], rel=1e-4)
    assert found['l2', 4] == pytest.approx((weight / 4 - 1) ** 2, rel=1e-4)
    assert found['l2', 8] == pytest.approx((weight / 8 - 1) ** 2, rel=1e-4)


def test_one_logit_with_an_image_is_a_probability():
    critic = dict(type='mmkd.SelfAttentionCritic', channels=2, condition_on_image=True)
    loss = HolisticLoss(at='head', critic=dict(critic, in_channels=4, norm=None))
    s, t = maps(shape=(2, 1, 4, 4))
    s.requires_grad_()
    batch = batch_for(s)
    loss(s, t, batch).backward()
    assert s.grad.abs().max() > 0
    assert batch.logs['gap'] != 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_penalty_is_computed_in_float32(dtype):
    critic = SelfAttentionCritic(2, norm=None, channels=2).eval()
    real, fake = torch.randn(2, 2, 2, 8, 8).to(dtype)
    mix = torch.tensor([0.25, 0.5])
    half = gradient_penalty(critic, real, fake, mix)
    assert half.dtype == torch.float32
    exact = gradient_penalty(critic, real.float(), fake.float(), mix)
    torch.testing.assert_close(half, exact, rtol=0, atol=0)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(gradient_penalty(critic, real, fake, mix), exact)


def test_a_process_without_images_takes_part():
    """Or the others would wait for it in vain."""
    loss = linear()
    weight = loss.critic.weight.detach().clone()
    s, t = maps(shape=(0, 2, 4, 4))
    s.requires_grad_()
    value = loss(s, t, batch_for(s))
    value.backward()
    assert value.item() == 0
    assert loss.adversary.steps == 1
    assert torch.equal(loss.critic.weight, weight)


def test_no_second_derivative_is_invented():
    s, t = maps()
    s.requires_grad_()
    value = linear()(s, t).square()
    (gradient,) = torch.autograd.grad(value, s, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        gradient.sum().backward()


def test_the_rate_falls_over_the_run():
    hub = MessageHub.get_instance('holistic')
    assert MessageHub.get_current_instance() is hub
    loss = linear(critic_lr=0.2)
    hub.update_info('max_iters', 100)
    for iteration, share in [(0, 1), (50, 0.5), (90, 0.1)]:
        hub.update_info('iter', iteration)
        loss(*maps())
        (group,) = loss.adversary.optimizer.param_groups
        assert group['lr'] == pytest.approx(0.2 * share**0.9)
    MessageHub._instance_dict.pop('holistic')


def test_conditioned_on_the_image():
    """As in the authors' first code: the resized image, then the probabilities."""
    seen = []

    @MODELS.register_module(force=True)
    class Watcher(LinearCritic):
        condition_on_image = True

        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    loss = HolisticLoss(at='head', critic=dict(type='Watcher', in_channels=5))
    s, t = maps()
    batch = Batch(torch.randn(3, 3, 8, 8))
    s.requires_grad_()
    loss(s, t, batch).backward()
    image = torch.nn.functional.interpolate(batch.inputs, (4, 4), mode='bilinear')
    torch.testing.assert_close(seen[0], torch.cat([image, s.softmax(1)], 1))
    torch.testing.assert_close(seen[1], torch.cat([image, t.softmax(1)], 1))
    assert s.grad.abs().max() > 0
    with pytest.raises(ValueError, match='conditioned on the image needs it'):
        loss(s, t)


class Conditioned(LinearCritic):
    """By its class, not by an argument."""

    condition_on_image = True


def test_a_critic_may_be_conditioned_by_its_class():
    MODELS.register_module(module=Conditioned, force=True)
    loss = HolisticLoss(at='head', critic=dict(type='Conditioned'))
    loss.prepare(torch.zeros(2, 7, 4, 4), torch.zeros(2, 7, 4, 4))
    assert len(loss.critic.weight) == 10


def test_widths_are_checked_when_the_model_is_built():
    four = torch.zeros(2, 4, 8, 8)
    loss = HolisticLoss(critic=dict(type='LinearCritic', in_channels=9))
    with pytest.raises(ValueError, match='in_channels of the critic must be 4.* is 9'):
        loss.prepare(four, four)
    levels = (four, torch.zeros(2, 8, 4, 4))
    with pytest.raises(ValueError, match=r'cannot judge maps of \[4, 8\] channels'):
        HolisticLoss().prepare(levels, levels)
    with pytest.raises(RuntimeError, match='critic is made when the model is built'):
        HolisticLoss()(four, four)


@pytest.mark.parametrize('condition', [False, True])
def test_the_critic_is_made_for_the_classes(condition):
    critic = dict(
        type='mmkd.SelfAttentionCritic', condition_on_image=condition, channels=2
    )
    loss = HolisticLoss(at='head', critic=critic)
    loss.prepare(torch.zeros(2, 7, 4, 4), torch.zeros(2, 7, 8, 8))
    assert loss.critic.norm.num_features == (10 if condition else 7)
    assert 'in_channels' not in critic


def test_follows_a_cast_but_not_into_half_precision():
    """The critic, and what its optimizer has gathered."""
    loss = linear(critic_optimizer=None)  # Adam
    loss(*maps())
    weight = loss.critic.weight.detach().clone()
    for cast, dtype in [('half', torch.float32), ('double', torch.float64)]:
        getattr(loss, cast)()
        assert loss.critic.weight.dtype == dtype
        assert torch.equal(loss.critic.weight, weight.to(dtype))  # nothing rounded
    s, t = maps()
    assert loss(s, t).isfinite()
    (moments,) = loss.adversary.optimizer.state.values()
    assert moments['exp_avg'].dtype == torch.float64
    assert moments['step'] == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_gradient_does_not_vanish_in_half_precision(dtype):
    """A scaled one, as a gradient scaler makes it, is scaled before it is rounded."""
    s, t = maps(shape=(2, 2, 64, 64))
    scale, loss = 2.0**16, linear(loss_weight=1e-4)
    half = s.to(dtype).requires_grad_()
    exact = s.to(dtype).float().requires_grad_()
    (loss.eval()(half, t) * scale).backward()
    (loss(exact, t) * scale).backward()
    assert exact.grad.abs().max() / scale < 6e-8  # nothing in float16
    torch.testing.assert_close(half.grad, exact.grad.to(dtype))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(gp_weight=-1),
            'gp_weight must be >= 0 and critic_lr > 0, both finite.* are -1',
        ),
        (dict(critic_lr=0), 'critic_lr > 0, both finite, but they are 10.0 and 0'),
        (dict(critic_steps=0), 'critic_steps must be an integer >= 1 but is 0'),
        (dict(critic_steps=True), 'critic_steps must be an integer >= 1 but is True'),
        (dict(gp_weight=math.nan), 'gp_weight must be >= 0'),
        (
            dict(critic_lr=math.inf),
            'critic_lr > 0, both finite, but they are 10.0 and inf',
        ),
        (dict(gp_norm='l1'), "gp_norm must be one of .* but is 'l1'"),
        (dict(critic_steps=1.5), 'critic_steps must be an integer >= 1 but is 1.5'),
    ],
)
def test_rejects_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        HolisticLoss(**arguments)


def test_rejects_taps():
    loss = HolisticLoss()
    with pytest.raises(ValueError, match='same classes but score 19 and 11'):
        loss.prepare(torch.zeros(1, 19, 4, 4), torch.zeros(1, 11, 4, 4))
    with pytest.raises(ValueError, match='classes cannot be counted by a dry run'):
        loss.prepare(None, torch.zeros(1, 19, 4, 4))
