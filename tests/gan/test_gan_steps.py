"""A training step of every GAN, against one that is written out."""

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from gan_toy import (
    JUDGE,
    OPTIMIZERS,
    SMALL,
    SUPER,
    batch,
    compression,
    cyclegan,
    pix2pix,
    saved,
)
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS
from torch import nn

from mmkd.gan.pool import PicturePool

NETWORKS = ('generator', 'discriminator')


@OPTIM_WRAPPERS.register_module(force=True)
class HalfOptimWrapper(OptimWrapper):
    """What AmpOptimWrapper is on a GPU, without a scaler."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def made(cfg, seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(cfg).train()
    # Weights of a standard deviation of 0.02 leave next to nothing of a picture.
    for name, parameter in model.named_parameters():
        if 'discriminator' not in name:
            parameter.data.normal_(0, 0.1)
    return model


def stepped(model, *batches):
    optimizers = build_optim_wrapper(model, OPTIMIZERS)
    return [model.train_step(data, optimizers) for data in batches]


def pictures(data):
    return [
        torch.stack(data['inputs'][name]).float() / 127.5 - 1
        for name in ('source', 'target')
    ]


def adam(*modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))


def hinge(fake, real):
    return (F.relu(1 + fake).mean() + F.relu(1 - real).mean()) / 2


def same_weights(model, plain):
    own, expected = model.state_dict(), plain.state_dict()
    assert own.keys() == expected.keys()
    for name, value in own.items():
        # Adam turns rounding errors of a gradient that is nothing, as biases before a
        # normalisation have, into whole steps.
        tolerance = dict(rtol=0, atol=1e-3 if name.endswith('bias') else 1e-5)
        torch.testing.assert_close(value, expected[name], **tolerance, msg=name)


def test_pix2pix_takes_the_steps_of_the_paper():
    model = made(pix2pix(lambda_gan=0.5, lambda_recon=20.0))
    plain, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    logs = stepped(model, batch(), batch(range(4, 8)))
    g, d = plain.generator, plain.discriminator
    optim_g, optim_d = adam(g), adam(d)
    for data, log in zip((batch(), batch(range(4, 8))), logs):
        x, y = pictures(data)
        fake = g(x)
        optim_d.zero_grad()
        loss_d = hinge(d(torch.cat((x, fake.detach()), 1)), d(torch.cat((x, y), 1)))
        loss_d.backward()
        optim_d.step()
        optim_g.zero_grad()
        gan = -0.5 * d(torch.cat((x, fake), 1)).mean()
        recon = 20 * (fake - y).abs().mean()
        (gan + recon).backward()
        optim_g.step()
        expected = dict(
            loss_discriminator=loss_d, loss_gan=gan, loss_recon=recon, loss=gan + recon
        )
        assert log.keys() == expected.keys()
        for name, value in expected.items():
            assert log[name].item() == pytest.approx(value.item(), rel=1e-4), name
            assert not log[name].requires_grad
    same_weights(model, plain)
    for name, value in model.state_dict().items():
        assert not name.endswith('weight') or not torch.equal(value, before[name])


def test_cyclegan_takes_the_steps_of_the_paper():
    model = made(cyclegan(pool_size=0))
    plain = copy.deepcopy(model)
    (log,) = stepped(model, batch())
    ab, ba = plain.generator, plain.generator_back
    db, da = plain.discriminator, plain.discriminator_back
    optim_g, optim_d = adam(ab, ba), adam(db, da)
    a, b = pictures(batch())
    l1 = F.l1_loss
    fake_b, fake_a = ab(a), ba(b)
    losses = dict(
        loss_gan=((db(fake_b) - 1) ** 2).mean(),
        loss_gan_back=((da(fake_a) - 1) ** 2).mean(),
        loss_cycle=10 * l1(ba(fake_b), a),
        loss_cycle_back=10 * l1(ab(fake_a), b),
        loss_identity=5 * l1(ab(b), b),
        loss_identity_back=5 * l1(ba(a), a),
    )
    sum(losses.values()).backward()
    optim_g.step()
    optim_d.zero_grad()
    judged = dict(
        loss_discriminator=(
            (db(fake_b.detach()) ** 2).mean() + ((db(b) - 1) ** 2).mean()
        )
        / 2,
        loss_discriminator_back=(
            (da(fake_a.detach()) ** 2).mean() + ((da(a) - 1) ** 2).mean()
        )
        / 2,
    )
    sum(judged.values()).backward()
    optim_d.step()
    expected = {**losses, **judged, 'loss': sum(losses.values())}
    assert log.keys() == expected.keys()
    for name, value in expected.items():
        assert log[name].item() == pytest.approx(value.item(), rel=1e-4), name
    same_weights(model, plain)


@pytest.mark.parametrize('paired', [True, False])
def test_compression_takes_the_steps_of_the_paper(paired, tmp_path):
    whole = pix2pix() if paired else cyclegan()
    teacher = saved(whole, tmp_path)
    told = dict(lambda_recon=30.0, lambda_distill=2.0, paired=paired)
    model = made(compression(teacher, **told))
    plain = copy.deepcopy(model)
    stated = model.teacher.model.state_dict()
    kept = {name: value.clone() for name, value in stated.items()}
    (log,) = stepped(model, batch())
    g, d, adapters = plain.generator, plain.discriminator, plain.adapters.convs
    optim_g, optim_d = adam(g, adapters), adam(d)
    x, y = pictures(batch())
    theirs = MODELS.build(SMALL)
    theirs.load_state_dict(kept)

    def tapped(network):
        # The trunk's input, and after each of three blocks.
        maps, out = [], x
        for i, layer in enumerate(network.model):
            out = layer(out)
            if i in (9, 10, 11, 12):
                maps.append(out)
        return out, maps

    fake, own = tapped(g)
    with torch.no_grad():
        taught, maps = tapped(theirs)
    seen = (x,) if paired else ()
    loss_d = hinge(d(torch.cat((*seen, fake.detach()), 1)), d(torch.cat((*seen, y), 1)))
    loss_d.backward()
    optim_d.step()
    optim_g.zero_grad()
    losses = dict(
        loss_gan=-d(torch.cat((*seen, fake), 1)).mean(),
        loss_recon=30 * (fake - (y if paired else taught)).abs().mean(),
        loss_distill=2
        * sum(((a(s) - t) ** 2).mean() for a, s, t in zip(adapters, own, maps)),
    )
    sum(losses.values()).backward()
    optim_g.step()
    expected = dict(losses, loss_discriminator=loss_d, loss=sum(losses.values()))
    assert log.keys() == expected.keys()
    for name, value in expected.items():
        assert log[name].item() == pytest.approx(value.item(), rel=1e-4), name
    same_weights(model, plain)
    # The teacher learns nothing, and none of it is in the checkpoint.
    assert all(torch.equal(stated[name], value) for name, value in kept.items())
    assert all(p.grad is None for p in model.teacher.model.parameters())
    children = {key.partition('.')[0] for key in model.state_dict()}
    assert children == {'generator', 'discriminator', 'adapters'}


def test_the_discriminator_is_the_teachers_and_may_learn(tmp_path):
    teacher = saved(pix2pix(), tmp_path)
    state = torch.load(tmp_path / 'teacher.pth')['state_dict']
    for told in ({}, dict(discriminator=JUDGE)):
        model = MODELS.build(compression(teacher, **told))
        for name, value in model.discriminator.state_dict().items():
            assert torch.equal(value, state[f'discriminator.{name}'])
        assert all(p.requires_grad for p in model.discriminator.parameters())
    fresh = MODELS.build(compression(teacher, inherit=[]))
    assert fresh.discriminator.model[0].weight.shape == (128, 6, 4, 4)
    # Unpaired, of a teacher whose discriminator sees both pictures.
    with pytest.raises(ValueError, match='must see 3 channels but sees 6'):
        MODELS.build(compression(teacher, paired=False))


def test_a_supernet_trains_another_sub_network_in_every_step(tmp_path):
    teacher = saved(pix2pix(), tmp_path)
    model = made(compression(teacher, student=SUPER))
    drawn = []
    sample = model.generator.sample
    model.generator.sample = lambda *told: drawn.append(sample(*told)) or drawn[-1]
    logs = stepped(model, *[batch()] * 3)
    assert drawn == [sample(model.seed, i) for i in range(3)]
    assert len(set(drawn)) == 3
    assert all(torch.isfinite(log['loss']) for log in logs)
    # Outside of a step it is whole.
    assert model.generator(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    assert all(conv.active is None for conv in model.adapters.convs)


def test_a_supernet_without_a_teacher_is_narrowed_too():
    model = MODELS.build(pix2pix(generator=SUPER))
    seen = []
    model.generator.register_forward_hook(
        lambda g, *_: seen.append(tuple(vars(g.widths).values()))
    )
    optimizers = build_optim_wrapper(model, dict(OPTIMIZERS))
    for _ in range(4):
        model.train_step(batch(), optimizers)
    assert len({str(widths) for widths in seen}) > 1
    again = MODELS.build(pix2pix(generator=SUPER))
    again.set_rank_state(model.rank_state())
    assert again.draws == 4


def test_released_weights_of_a_generator_alone(tmp_path):
    torch.manual_seed(1)
    generator = MODELS.build(SMALL)
    torch.save(generator.state_dict(), tmp_path / 'latest_net_G.pth')
    entry = dict(generator=SMALL, checkpoint=str(tmp_path / 'latest_net_G.pth'))
    model = MODELS.build(compression(entry, student=SMALL, inherit=['generator']))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.generator(x), generator(x))
    assert torch.equal(model.teacher.model(x), generator(x))


def test_without_distillation_there_are_no_adapters(tmp_path):
    model = made(compression(saved(pix2pix(), tmp_path), lambda_distill=0.0))
    (log,) = stepped(model, batch())
    assert model.adapters is None
    assert 'loss_distill' not in log


@pytest.mark.parametrize(
    ('told', 'error', 'sentence'),
    [
        (dict(teacher='a.pth'), TypeError, 'teacher must be dict'),
        (dict(teacher=dict(generator=SMALL)), ValueError, 'and the checkpoint with'),
        (dict(inherit='generator'), ValueError, 'inherit must be a list of'),
        (dict(inherit=['generator']), ValueError, 'start from random weights'),
        (dict(gan_mode='wgan'), ValueError, 'gan_mode must be one of'),
        (dict(taps=['model.99']), ValueError, 'is not a sub-module'),
        (dict(taps={'model.9': 'model.3'}), ValueError, 'maps of one size in both'),
        (dict(generator=3), TypeError, 'generator must be a config or a network'),
    ],
)
def test_mistakes_are_sentences(told, error, sentence, tmp_path):
    cfg = compression(saved(pix2pix(), tmp_path))
    with pytest.raises(error, match=sentence):
        MODELS.build({**cfg, **told})


def test_other_mistakes_are_sentences():
    rgb_to_grey = dict(SMALL, out_channels=1)
    with pytest.raises(ValueError, match='lambda_identity must be 0'):
        MODELS.build(cyclegan(generator=rgb_to_grey))
    MODELS.build(cyclegan(generator=rgb_to_grey, lambda_identity=0))
    model = made(pix2pix())
    with pytest.raises(TypeError, match='needs an optimizer for the generator and one'):
        model.train_step(batch(), adam(model))
    for wrong in (
        dict(OPTIMIZERS, paramwise_cfg=dict(bias_decay_mult=0)),
        {k: v for k, v in OPTIMIZERS.items() if k != 'generator'},
    ):
        with pytest.raises(ValueError, match='optim_wrapper of a GAN must have'):
            build_optim_wrapper(model, wrong)
    odd = batch()
    odd['inputs']['source'][1] = odd['inputs']['source'][1][:, :8]
    with pytest.raises(ValueError, match='must have one shape, but those of source'):
        stepped(model, odd)


@pytest.mark.parametrize('kind', ['pix2pix', 'cyclegan', 'compression'])
def test_bfloat16_is_near_float32(kind, tmp_path):
    cfgs = dict(pix2pix=pix2pix, cyclegan=cyclegan)
    if kind == 'compression':
        cfg = compression(saved(pix2pix(), tmp_path), lambda_distill=1.0)
    else:
        cfg = cfgs[kind]()
    logs = []
    dtypes = []
    for wrapper in ('OptimWrapper', 'HalfOptimWrapper'):
        model = made(cfg)
        told = {n: dict(OPTIMIZERS[n], type=wrapper) for n in NETWORKS}
        optimizers = build_optim_wrapper(model, {**OPTIMIZERS, **told})
        dtypes.append({})
        networks = {name: getattr(model, name) for name in NETWORKS}
        if kind == 'compression':
            networks['teacher'] = model.teacher.model
        for name, network in networks.items():  # a context of its own for each
            first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
            first.register_forward_hook(
                lambda module, args, out, name=name: dtypes[-1].update(
                    {name: out.dtype}
                )
            )
        logs.append(model.train_step(batch(), optimizers))
    assert dtypes == [
        dict.fromkeys(networks, d) for d in (torch.float32, torch.bfloat16)
    ]
    for name, value in logs[0].items():
        assert logs[1][name].dtype == torch.float32, name
        assert logs[1][name].item() == pytest.approx(value.item(), rel=0.1, abs=0.05)


@pytest.mark.parametrize('kind', ['pix2pix', 'cyclegan', 'compression'])
def test_gradients_are_scaled_by_each_optimizer(kind, tmp_path, monkeypatch):
    """MMEngine's mixed precision: two scalers, by powers of two, change nothing.

    It asks for a GPU, but PyTorch's scaler is for a CPU, too.
    """
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu')
    )
    cfgs = dict(pix2pix=pix2pix, cyclegan=cyclegan)
    cfg = cfgs[kind]() if kind in cfgs else compression(saved(pix2pix(), tmp_path))
    states = []
    for told in (
        dict(type='HalfOptimWrapper'),
        dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic'),
    ):
        model = made(cfg)
        begun = copy.deepcopy(model.state_dict())
        each = {n: {**OPTIMIZERS[n], **told} for n in NETWORKS}
        optimizers = build_optim_wrapper(model, {**OPTIMIZERS, **each})
        for _ in range(3):
            model.train_step(batch(), optimizers)
        states.append(model.state_dict())
    for optimizer in optimizers.values():
        assert optimizer.loss_scaler.is_enabled()
        assert optimizer.loss_scaler.get_scale() == 2**16
    moved = {
        name.partition('.')[0]
        for name, v in states[1].items()
        if not torch.equal(v, begun[name])
    }
    assert moved >= set(NETWORKS)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize('kind', ['pix2pix', 'cyclegan', 'compression'])
def test_a_compiled_step_is_the_same(kind, tmp_path):
    """MMEngine's ``compile=True``: two networks learn, each with a graph of its own."""
    cfgs = dict(pix2pix=pix2pix, cyclegan=cyclegan)
    if kind == 'compression':
        cfg = compression(saved(pix2pix(), tmp_path), lambda_distill=0.0)
    else:
        cfg = cfgs[kind]()
    states = []
    for compiler in (lambda step: step, partial(torch.compile, backend='aot_eager')):
        torch._dynamo.reset()
        model = made(cfg)
        # Adam would make as much of gradients that are nothing but rounding.
        plain = dict(optimizer=dict(type='SGD', lr=1e-3))
        told = {**OPTIMIZERS, **dict.fromkeys(NETWORKS, plain)}
        optimizers = build_optim_wrapper(model, told)
        step = compiler(model.train_step)
        for _ in range(2):
            step(batch(), optimizers)
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)


def test_predictions_are_the_generators():
    model = made(pix2pix()).eval()
    x, y = pictures(batch())
    with torch.no_grad():
        found = model.val_step(batch())
        expected = model.generator(x)
    assert len(found) == 4
    for i, one in enumerate(found):
        assert torch.equal(one['generated'], expected[i])
        assert torch.equal(one['source'], x[i])
        assert torch.equal(one['target'], y[i])


def test_a_pool_hands_out_older_pictures_half_of_the_time():
    torch.manual_seed(0)
    pool = PicturePool(5)
    kept = [float(i) for i in range(5)]
    out = [pool(torch.full((1, 1, 1, 1), x)).item() for x in kept]
    assert out == kept
    old, seen = 0, set(kept)
    for i in range(5, 405):
        new = pool(torch.full((1, 1, 1, 1), float(i))).item()
        old += new != i
        assert new == i or new in seen
        if new != i:  # taken out, and the new one in its place
            seen.remove(new)
            seen.add(float(i))
    assert 150 < old < 250
    assert {p.item() for p in pool.pictures} == seen
    twin = PicturePool(5)
    twin.set_state(pool.state())
    x = torch.arange(8.0).view(8, 1, 1, 1)
    assert torch.equal(twin(x), pool(x))
