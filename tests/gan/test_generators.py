"""Generators, their supernet, discriminators: against plain references."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmkd
from mmkd.gan import supernet as supernet_module
from mmkd.gan.inherit import inherit
from mmkd.gan.layers import InstanceNorm
from mmkd.gan.widths import Widths, macs

KINDS = [mmkd.ResnetGenerator, mmkd.MobileResnetGenerator]
CHANNELS = [6, 5, 4, 3, 7, 2, 4, 5]


def seeded(kind, seed=0, **told):
    torch.manual_seed(seed)
    model = kind(**told)
    for parameter in model.parameters():  # biases, too
        parameter.data.normal_(0, 0.3)
    return model.eval()


def plain(state, x, num_blocks, is_separable):
    """The generator of the paper in functions, from weights by the authors' names."""

    def conv(x, name, **told):
        return F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'], **told)

    def up(x, name):
        weights = state[f'{name}.weight'], state[f'{name}.bias']
        return F.conv_transpose2d(x, *weights, 2, 1, 1)

    def norm(x):
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()

    def inner(x, name):
        x = F.pad(x, [1] * 4, 'reflect')
        if not is_separable:
            return conv(x, name)
        x = norm(conv(x, f'{name}.conv.0', groups=x.shape[1]))
        return conv(x, f'{name}.conv.2')

    maps = []
    x = F.relu(norm(conv(F.pad(x, [3] * 4, 'reflect'), 'model.1')))
    x = F.relu(norm(conv(x, 'model.4', stride=2, padding=1)))
    x = F.relu(norm(conv(x, 'model.7', stride=2, padding=1)))
    maps.append(x)
    for i in range(10, 10 + num_blocks):
        y = F.relu(norm(inner(x, f'model.{i}.conv_block.1')))
        x = x + norm(inner(y, f'model.{i}.conv_block.6'))
        maps.append(x)
    at = 10 + num_blocks
    x = F.relu(norm(up(x, f'model.{at}')))
    x = F.relu(norm(up(x, f'model.{at + 3}')))
    return torch.tanh(conv(F.pad(x, [3] * 4, 'reflect'), f'model.{at + 7}')), maps


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('told', [dict(ngf=4), dict(channels=CHANNELS)])
def test_outputs_and_taps_equal_a_plain_reference(kind, told):
    model = seeded(kind, in_channels=2, num_blocks=6, **told)
    x = torch.rand(2, 2, 16, 20) * 2 - 1
    found = {}
    for tap in model.taps:
        module = model.get_submodule(tap)
        module.register_forward_hook(lambda m, i, y, tap=tap: found.update({tap: y}))
    expected, maps = plain(model.state_dict(), x, 6, kind is KINDS[1])
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    # The trunk's input, and what each third of the blocks yields.
    assert model.taps == ['model.9', 'model.11', 'model.13', 'model.15']
    for tap, place in zip(model.taps, (0, 2, 4, 6)):
        torch.testing.assert_close(found[tap], maps[place], rtol=1e-4, atol=1e-4)


def test_published_taps():
    assert mmkd.ResnetGenerator(ngf=1).taps == [f'model.{i}' for i in (9, 12, 15, 18)]
    assert mmkd.ResnetGenerator(ngf=1, num_blocks=8).taps[-1] == 'model.17'
    assert mmkd.ResnetGenerator(ngf=1, num_blocks=2).taps == [
        'model.9', 'model.10', 'model.11',
    ]  # fmt: skip


def test_weights_are_drawn_as_the_authors_do():
    model = mmkd.MobileResnetGenerator(ngf=16)
    for name, parameter in model.named_parameters():
        if name.endswith('bias'):
            assert not parameter.any()
        elif parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('channels', [[8] * 8, CHANNELS])
def test_macs_equal_those_that_are_counted(kind, channels):
    model = seeded(kind, channels=channels, num_blocks=5, out_channels=1)
    counted = []

    def count(module, inputs, output):
        kernel = module.weight[0, 0].numel()
        share = module.in_channels // module.groups
        counted.append(output.shape[1:].numel() * share * kernel)

    norms, transposed = [], []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
        if isinstance(module, InstanceNorm):
            module.register_forward_hook(
                lambda m, i, y: norms.append(y.shape[1:].numel())
            )
        if isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(
                lambda m, i, y: transposed.append(
                    i[0].shape[1:].numel() * m.out_channels * 9
                )
            )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 24, 16))
    assert model.macs((24, 16)) == sum(counted) + sum(norms)
    # torch counts a transposed convolution by its inputs, a quarter as many.
    assert sum(counted) - 3 * sum(transposed) == counter.get_total_flops() / 2


def test_macs_are_the_published_ones():
    """56.8 G of the paper's table 1; a sub-network in docs/lite_pipeline.md."""
    full = Widths.of([64] * 8, 9)
    assert macs(full, (256, 256), separable=False) == pytest.approx(56.8e9, rel=1e-3)
    found = Widths.of([32, 32, 48, 40, 64, 40, 16, 32], 9)
    assert macs(found, (256, 256)) == 5761662976
    six = Widths.of([32, 16, 32, 16, 32, 16], 9)
    assert six == Widths.of([32, 16, 32, 16, 16, 16, 32, 16], 9)


@pytest.fixture
def supernet():
    return seeded(mmkd.SuperMobileResnetGenerator, ngf=8, num_blocks=4)


@pytest.mark.parametrize('channels', [[8] * 8, CHANNELS, [2] * 8, [1] * 8])
def test_a_sub_network_is_one_that_is_built_alone(supernet, channels):
    x = torch.rand(2, 3, 16, 16)
    alone = supernet.extracted(channels)
    assert type(alone) is mmkd.MobileResnetGenerator
    with supernet.narrowed(channels):
        inside = supernet(x)
        assert supernet.macs((16, 16)) == alone.macs((16, 16))
    assert torch.equal(inside, alone(x))
    expected, _ = plain(
        {
            key: supernet.state_dict()[key][tuple(map(slice, value.shape))]
            for key, value in alone.state_dict().items()
        },
        x,
        4,
        True,
    )
    torch.testing.assert_close(inside, expected, rtol=1e-4, atol=1e-4)
    # And afterwards it is whole again.
    whole = seeded(mmkd.MobileResnetGenerator, ngf=8, num_blocks=4)
    whole.load_state_dict(supernet.state_dict())
    assert torch.equal(supernet(x), whole(x))


def test_only_leading_channels_learn(supernet):
    with supernet.narrowed(CHANNELS):
        supernet(torch.rand(1, 3, 16, 16)).square().sum().backward()
    shapes = {k: v.shape for k, v in supernet.extracted(CHANNELS).named_parameters()}
    for name, parameter in supernet.named_parameters():
        inside = tuple(map(slice, shapes[name]))
        # What instance normalisation takes away has a gradient of rounding errors.
        if name.endswith('weight'):
            assert parameter.grad[inside].abs().max() > 1e-6, name
        outside = parameter.grad.clone()
        outside[inside] = 0
        assert not outside.any(), name


def test_sub_networks_follow_from_seed_and_step(supernet):
    assert supernet.choices == ((8, 6, 4, 3, 2),) * 8
    drawn = [supernet.sample(0, i) for i in range(400)]
    assert drawn == [supernet.sample(0, i) for i in range(400)]
    assert drawn != [supernet.sample(1, i) for i in range(400)]
    for part in zip(*drawn):
        for width in (8, 6, 4, 3, 2):
            assert part.count(width) == pytest.approx(80, abs=35)


def test_a_width_beside_choices_is_told_to_have_no_effect(monkeypatch):
    said = []
    monkeypatch.setattr(
        supernet_module, 'print_log', lambda text, **_: said.append(text)
    )
    made = mmkd.SuperMobileResnetGenerator(num_blocks=1, ngf=8, choices=[[16, 8]] * 8)
    assert made.channels == (16,) * 8
    assert ['ngf=8 has no effect' in text for text in said] == [True]
    mmkd.SuperMobileResnetGenerator(num_blocks=1, choices=[[16, 8]] * 8)
    mmkd.SuperMobileResnetGenerator(num_blocks=1, ngf=16, choices=[[16, 8]] * 8)
    assert mmkd.SuperMobileResnetGenerator(num_blocks=1).channels == (64,) * 8
    assert len(said) == 1


def test_a_copy_of_full_width_is_its_teacher():
    for kind in KINDS:
        teacher = seeded(kind, ngf=6, num_blocks=4)
        student = seeded(kind, seed=1, ngf=6, num_blocks=4)
        inherit(student, teacher)
        x = torch.rand(1, 3, 16, 16)
        assert torch.equal(student(x), teacher(x))
        assert student.model[1].weight.data_ptr() != teacher.model[1].weight.data_ptr()


def test_a_supernet_of_full_width_computes_what_its_teacher_does():
    teacher = seeded(mmkd.MobileResnetGenerator, ngf=8, num_blocks=4)
    supernet = seeded(mmkd.SuperMobileResnetGenerator, seed=1, ngf=8, num_blocks=4)
    inherit(supernet, teacher)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(supernet(x), teacher(x), rtol=1e-3, atol=1e-3)
    norms = supernet.model[1].weight.abs().sum((1, 2, 3))
    assert torch.equal(norms, norms.sort(descending=True).values)


@pytest.mark.parametrize('kind', KINDS)
def test_the_largest_channels_are_kept_and_the_trunk_keeps_its_own(kind):
    """Channels that are to be dropped are made nothing: nothing is lost."""
    teacher = seeded(kind, ngf=4, num_blocks=3)
    state = teacher.state_dict()
    generator = torch.Generator().manual_seed(0)

    def some(count):
        return torch.randperm(count, generator=generator)[: count // 2]

    trunk = some(16)
    drop = {'model.1': some(4), 'model.4': some(8), 'model.7': trunk}
    for i in (10, 11, 12):
        last = '.conv.2' if kind is KINDS[1] else ''
        drop[f'model.{i}.conv_block.1{last}'] = some(16)
        drop[f'model.{i}.conv_block.6{last}'] = trunk
    for name, channels in drop.items():
        state[f'{name}.weight'][channels] *= 1e-3
    for name, count in (('model.13', 8), ('model.16', 4)):
        state[f'{name}.weight'][:, some(count)] *= 1e-3
    student = seeded(kind, seed=1, ngf=2, num_blocks=3)
    inherit(student, teacher)
    for name, channels in drop.items():
        kept = torch.tensor(
            [c for c in range(len(state[f'{name}.bias'])) if c not in channels]
        )
        own = student.state_dict()[f'{name}.bias']
        assert torch.equal(own, state[f'{name}.bias'][kept]), name
    block = 'model.10.conv_block.1' + ('.conv.0' if kind is KINDS[1] else '')
    kept = torch.tensor([c for c in range(16) if c not in trunk])
    weight = student.state_dict()[f'{block}.weight']
    if kind is KINDS[1]:  # one filter for each channel of the trunk
        assert torch.equal(weight, state[f'{block}.weight'][kept])
    else:
        inside = [c for c in range(16) if c not in drop[block]]
        assert torch.equal(weight, state[f'{block}.weight'][inside][:, kept])


@pytest.mark.parametrize(
    ('student', 'sentence'),
    [
        (dict(ngf=8), r'channels of the student must be at most \(4,'),
        (
            dict(ngf=4, num_blocks=2),
            'must have its blocks, 3 of ResnetBlock, but has 2',
        ),
        (dict(ngf=4, in_channels=1), 'in_channels of the student must be 3'),
    ],
)
def test_what_cannot_inherit(student, sentence):
    teacher = mmkd.ResnetGenerator(ngf=4, num_blocks=3)
    with pytest.raises(ValueError, match=sentence):
        inherit(mmkd.ResnetGenerator(**{'num_blocks': 3, **student}), teacher)
    mobile = mmkd.MobileResnetGenerator(ngf=4, num_blocks=3)
    with pytest.raises(ValueError, match='let it start from random weights'):
        inherit(mobile, teacher)


def test_a_discriminator_equals_a_plain_one():
    model = seeded(mmkd.PatchDiscriminator, in_channels=6, ndf=4)
    state = model.state_dict()
    assert {key.rpartition('.')[0] for key in state} == {
        f'model.{i}' for i in (0, 2, 5, 8, 11)
    }
    x = y = torch.rand(1, 6, 64, 48)
    for i, stride in ((0, 2), (2, 2), (5, 2), (8, 1), (11, 1)):
        weights = state[f'model.{i}.weight'], state[f'model.{i}.bias']
        y = F.conv2d(y, *weights, stride, 1)
        if i in (2, 5, 8):
            y = F.instance_norm(y)
        y = F.leaky_relu(y, 0.2) if i < 11 else y
    torch.testing.assert_close(model(x), y)
    assert [state[f'model.{i}.bias'].numel() for i in (0, 2, 5, 8)] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ('make', 'sentence'),
    [
        (lambda: mmkd.ResnetGenerator(num_blocks=0), 'num_blocks must be a positive'),
        (lambda: mmkd.ResnetGenerator(channels=[8] * 7), 'channels must be eight'),
        (lambda: mmkd.ResnetGenerator(channels=[8] * 7 + [0]), 'positive whole'),
        (lambda: mmkd.PatchDiscriminator(3, num_layers=0), 'num_layers must be a pos'),
        (
            lambda: mmkd.SuperMobileResnetGenerator(choices=[[8]] * 7),
            'choices must be eight lists',
        ),
        (
            lambda: mmkd.SuperMobileResnetGenerator(ngf=8).extracted([9] * 8),
            'at most .* but 9 for the stem',
        ),
    ],
)
def test_mistakes_are_sentences(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_picture_of_odd_sides_is_a_sentence():
    with pytest.raises(ValueError, match=r'multiples of 4, .* \(16, 18\)'):
        mmkd.ResnetGenerator(ngf=2, num_blocks=1)(torch.zeros(1, 3, 16, 18))


@pytest.mark.parametrize('layers', [1, 2, 3, 4])
def test_a_picture_that_is_too_small_to_judge_is_a_sentence(layers):
    judge = mmkd.PatchDiscriminator(3, ndf=1, num_layers=layers)
    side = 3 * 2**layers
    assert judge(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=f'must be at least {side}, for a disc'):
        judge(torch.zeros(1, 3, side, side - 1))
