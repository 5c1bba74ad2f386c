"""One step: the model's own losses, and those of the wider network."""

import copy
import pickle

import pytest
import torch
from blocks_net import augmented, blocks_net
from mmengine.registry import MODELS
from mmengine.runner import autocast
from torch import nn
from torch.nn import functional as F
from wide_twin import wide, wide_twin

from mmkd.config import student_config
from mmkd.distill import Distill
from mmkd.extended import stock_class

KINDS = ('inverted', 'basic', 'bottleneck', 'darknet', 'cspnext', 'csp')
PICTURES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
LABELS = [1, 2, 3, 4]


def built(**options):
    torch.manual_seed(0)
    model = MODELS.build(augmented(dropout=0.0, **options))
    # Scales and offsets of 1 and 0 would hide how they are extended.
    with torch.no_grad():
        for _name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.rand(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


def stock_of(model, **options):
    stock = MODELS.build(blocks_net(dropout=0.0, **options))
    stock.load_state_dict(model.state_dict())
    return stock


def losses_of(model):
    return model(PICTURES, LABELS, mode='loss')


@pytest.mark.parametrize('norm', ['BN', 'GN', 'SyncBN'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_models_own_pass_is_the_stock_one(kind, norm):
    model = built(kind=kind, block_norm=norm)
    stock = stock_of(model, kind=kind, block_norm=norm)
    ours, theirs = losses_of(model), losses_of(stock)
    assert ours.keys() == {'loss_cls', 'aug_loss_cls'}
    assert torch.equal(ours['loss_cls'], theirs['loss_cls'])
    # Statistics of the wider network go nowhere.
    states = zip(model.state_dict().values(), stock.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)
    for mode in ('tensor', 'predict'):
        one, other = (m.eval()(PICTURES, LABELS, mode=mode) for m in (model, stock))
        assert all(torch.equal(x[0], y[0]) for x, y in zip(one, other))


def normalised(x, norm, more):
    weight = torch.cat([norm.weight, more.weight])[: x.shape[1]]
    bias = torch.cat([norm.bias, more.bias])[: x.shape[1]]
    if isinstance(norm, nn.GroupNorm):
        size = norm.num_channels // norm.num_groups
        parts = x.split(size, 1)
        parts = [
            (p - p.mean((1, 2, 3), True))
            / (p.var((1, 2, 3), unbiased=False, keepdim=True) + norm.eps).sqrt()
            for p in parts
        ]
        x = torch.cat(parts, 1)
    else:
        mean, var = x.mean((0, 2, 3), True), x.var((0, 2, 3), False, keepdim=True)
        x = (x - mean) / (var + norm.eps).sqrt()
    return x * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize('norm', ['BN', 'GN'])
@pytest.mark.parametrize('factor', [1, 1.6, 2.2])
def test_a_wider_block_is_the_one_written_by_hand(factor, norm):
    """Inverted residual: 1x1, depthwise, 1x1, added to what came in."""
    model = built(block_norm=norm).train()
    block = model.backbone[3]
    extensions = model.netaug.extensions.get_submodule('backbone.3')
    widths = {'BN': {1: 24, 1.6: 40, 2.2: 56}, 'GN': {1: 24, 1.6: 36, 2.2: 48}}
    width = widths[norm][factor]
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    with model.netaug.widened(model, {'backbone.3': factor}):
        found = block(x)

    def conv(part, y, ins, outs, **options):
        parts = getattr(block, part).conv, getattr(extensions, part).conv
        return F.conv2d(y, wide(*parts, ins, outs), **options)

    def norm_of(part, y):
        more = getattr(extensions, part)._modules['gn' if norm == 'GN' else 'bn'].more
        return normalised(y, getattr(block, part).norm, more)

    y = norm_of('expand_conv', conv('expand_conv', x, 8, width)).relu()
    y = conv('depthwise_conv', y, 1, width, groups=width, padding=1)
    y = norm_of('depthwise_conv', y).relu()
    y = conv('linear_conv', y, width, 8)
    y = (
        normalised(y, block.linear_conv.norm, nn.GroupNorm(1, 8))
        if norm == 'GN'
        else (normalised(y, block.linear_conv.norm, nn.BatchNorm2d(8)))
    )
    torch.testing.assert_close(found, x + y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_a_wider_network_is_the_one_that_is_built_so(kind):
    """The wide model as a module of its own, with weights that it really has."""
    model = built(kind=kind).train()
    (name,) = model.netaug.layout.groups
    twin = wide_twin(model, {name: 1.6})
    with model.netaug.widened(model, {name: 1.6}):
        found = model.logits(PICTURES)
    torch.testing.assert_close(found, twin.logits(PICTURES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_the_gradient_of_the_sum_is_the_sum_of_gradients(kind):
    def gradients(*names):
        model = built(kind=kind, aug_weight=0.5)
        losses = losses_of(model)
        sum(losses[name] for name in names).backward()
        return {n: p.grad for n, p in model.named_parameters()}

    both = gradients('loss_cls', 'aug_loss_cls')
    own, wider = gradients('loss_cls'), gradients('aug_loss_cls')
    for name, found in both.items():
        parts = [g[name] for g in (own, wider) if g[name] is not None]
        torch.testing.assert_close(found, sum(parts), rtol=1e-4, atol=1e-7)
    # DistributedDataParallel waits for all of them.
    assert all(grad is not None for grad in both.values())
    assert any(n.startswith('netaug.') and g.any() for n, g in both.items())


def test_the_weight_scales_the_wider_networks_losses():
    one, half = (losses_of(built(aug_weight=w)) for w in (1.0, 0.5))
    assert torch.equal(one['aug_loss_cls'] / 2, half['aug_loss_cls'])


def test_sub_networks_are_leading_parts_of_the_largest():
    model = built()
    weights = {}
    for factor in (1, 1.6, 2.2):
        with model.netaug.widened(model, {'backbone.3': factor}):
            block = model.backbone[3]
            weights[factor] = [
                part.conv.weight
                for part in (block.expand_conv, block.depthwise_conv, block.linear_conv)
            ]
    for small, large in ((1, 1.6), (1.6, 2.2)):
        for one, other in zip(weights[small], weights[large]):
            outs, ins = one.shape[:2]
            assert torch.equal(one, other[:outs, :ins])
    own = [p.weight for p in (block.expand_conv.conv, block.linear_conv.conv)]
    assert torch.equal(weights[1][0], own[0])
    assert torch.equal(weights[1][2], own[1])


def test_nothing_is_left_when_the_pass_is_over():
    model = built()
    before = {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    losses_of(model)
    with (
        pytest.raises(ZeroDivisionError),
        model.netaug.widened(model, {'backbone.3': 2}),
    ):
        raise ZeroDivisionError
    now = {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    assert now == before
    assert model.backbone[3].depthwise_conv.conv.groups == 24


def test_frozen_statistics_are_of_the_models_own_pass():
    """norm_eval: the wider network's maps are others, so it takes the batch's."""
    model, stock = built().train(), None
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.uniform_()
        norm.eval()
    stock = stock_of(model)
    for module in stock.backbone.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    assert torch.equal(losses_of(model)['loss_cls'], losses_of(stock)['loss_cls'])
    outputs = []
    block = model.backbone[3]
    with model.netaug.widened(model, {'backbone.3': 1.6}):
        block.linear_conv.norm.register_forward_hook(lambda *a: outputs.append(a[2]))
        block(torch.randn(8, 8, 4, 4))
    norm = block.linear_conv.norm
    mean, std = outputs[0].mean((0, 2, 3)), outputs[0].std((0, 2, 3))
    torch.testing.assert_close(mean, norm.bias, rtol=0, atol=1e-4)
    torch.testing.assert_close(std, norm.weight.abs(), rtol=0.02, atol=0)
    assert not any(norm.training for norm in norms)
    losses_of(model)['aug_loss_cls'].backward()
    assert all(p.grad is not None for p in model.netaug.parameters())


class Counting(nn.Module):
    """Keeps what it saw in a number and a list, as some heads do."""

    def __init__(self):
        super().__init__()
        self.count, self.history = 0, []

    def forward(self, x):
        self.count += 1
        self.history.append(self.count)
        return x


def test_what_the_model_counts_is_its_own_pass():
    model = built()
    model.dropout = Counting()
    losses_of(model)
    losses_of(model)
    assert model.dropout.count == 2
    assert model.dropout.history == [1, 2]


class Tuning(nn.Module):
    """Changes what its assigner does, as Dynamic R-CNN's head."""

    def __init__(self):
        super().__init__()
        from mmdet.models.task_modules import PointAssigner

        self.assigner = PointAssigner(pos_num=3)

    def forward(self, x):
        self.assigner.pos_num += 1
        return x


def test_what_the_model_tunes_is_of_its_own_pass():
    model = built()
    model.dropout = Tuning()
    assigner = model.dropout.assigner
    losses_of(model)
    assert model.dropout.assigner is assigner
    assert assigner.pos_num == 4


def resnet(**changes):
    from mmdet.models import ResNet

    from mmkd import NetAug

    model = nn.Module()
    model.backbone = ResNet(18, base_channels=8, norm_eval=True, **changes)
    return NetAug(model.train())


def test_all_statistics_of_other_maps_are_the_batchs():
    """With norm_eval: of every block behind the first wider one, shortcuts, too."""
    model = resnet(frozen_stages=1)
    assert next(iter(model.netaug.layout.groups)) == 'backbone.layer2.0'
    with model.netaug.widened(model, {}):
        by_batch = {
            name
            for name, module in model.backbone.named_modules()
            if isinstance(module, nn.BatchNorm2d) and module.training
        }
    norms = [
        name
        for name, module in model.backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    # What the first one's shortcut is given comes from blocks as narrow as ever.
    same = {n for n in norms if n.startswith(('bn1', 'layer1'))}
    same.add('layer2.0.downsample.1')
    assert by_batch == {*norms} - same
    assert len(by_batch) == 14


def test_normalisation_without_eps():
    model = resnet()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.eps = 0.0
    pictures = torch.randn(2, 3, 64, 64)
    with model.netaug.widened(model, dict.fromkeys(model.netaug.layout.groups, 2.2)):
        assert all(map(torch.Tensor.all, map(torch.isfinite, model.backbone(pictures))))
    assert {norm.eps for norm in model.backbone.modules() if norm in norms} == {0.0}


def test_what_a_runner_checkpoints_is_refused():
    from mmengine.runner.activation_checkpointing import (
        turn_on_activation_checkpointing,
    )

    model = built()
    turn_on_activation_checkpointing(model, 'backbone')
    with pytest.raises(
        ValueError, match='activation_checkpointing None, but .backbone'
    ):
        losses_of(model)


def test_statistics_are_shared_where_asked():
    apart, shared = built(), built(shared=True)
    norms = [m.backbone[3].expand_conv.norm for m in (apart, shared)]
    for model in (apart, shared):
        losses_of(model)
    assert norms[0].num_batches_tracked == 1
    assert norms[1].num_batches_tracked == 2
    assert not torch.equal(norms[0].running_var, norms[1].running_var)
    # Those of the neck's or the stem's norms, too.
    assert not torch.equal(
        apart.backbone[1].running_mean, shared.backbone[1].running_mean
    )


def test_new_channels_have_statistics_of_their_own():
    model = built(expand=(1.6,))
    more = model.netaug.extensions.get_submodule('backbone.3.expand_conv.bn').more
    before = more.running_mean.clone()
    losses_of(model)
    assert (more.running_mean != before).all()


def test_samples_follow_from_seed_and_step():
    model = built(kind='csp', expand=(1, 1.6, 2.2))
    netaug = model.netaug
    netaug.seed = 3
    drawn = []
    for netaug.steps in range(300):
        torch.manual_seed(netaug.steps)  # of no consequence
        drawn.append(netaug.sample())
    (name,) = netaug.layout.groups
    counts = [sum(d[name] == f for d in drawn) for f in netaug.expand]
    assert min(counts) > 70
    netaug.steps = 17
    assert netaug.sample() == drawn[17]


def test_evaluation_and_weight_0_are_stock():
    assert losses_of(built().eval()).keys() == {'loss_cls'}
    model = built(aug_weight=0.0)
    assert losses_of(model).keys() == {'loss_cls'}
    assert not any(p.requires_grad for p in model.netaug.parameters())


def test_in_bfloat16_it_is_finite():
    model = built()
    with autocast(device_type='cpu', dtype=torch.bfloat16):
        losses = losses_of(model)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_copy_is_a_model_of_its_own():
    model = built()
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    assert twin.netaug is not model.netaug
    assert torch.equal(
        losses_of(twin)['aug_loss_cls'], losses_of(model)['aug_loss_cls']
    )


def test_samples_are_handed_on_as_they_came():
    """Heads put other things into them, which the second pass must not see."""
    from mmengine.structures import InstanceData

    from mmkd.netaug.augmentation import _fresh

    sample = InstanceData(metainfo=dict(img_shape=(4, 4)), inner=InstanceData(a=[1]))
    twin = _fresh([sample])[0]
    sample.inner.a = [2]
    assert twin.inner.a == [1]
    assert twin.img_shape == (4, 4)


# With a teacher.
HINT = dict(type='mmkd.FeatureImitationLoss', at='neck')


def taught(student):
    torch.manual_seed(0)
    teacher = MODELS.build(blocks_net(width=8, dropout=0.0))
    return Distill(student, teacher=teacher, losses=dict(loss_hint=HINT))


def test_a_teacher_sees_the_models_own_pass():
    plain, both = (built(aug_weight=w) for w in (0.0, 1.0))
    plain, both = taught(plain), taught(both)
    theirs, ours = losses_of(plain), losses_of(both)
    assert ours.keys() == {'loss_cls', 'aug_loss_cls', 'loss_hint'}
    for name, value in theirs.items():
        assert torch.equal(ours[name], value)
    sum(ours.values()).backward()
    assert all(p.grad is not None for p in both.parameters())
    state = both.state_dict()
    assert not [key for key in state if 'netaug' in key or 'distiller' in key]
    stock = MODELS.build(blocks_net(dropout=0.0))
    stock.load_state_dict(state)
    both.load_state_dict(stock.state_dict())
    twin = copy.deepcopy(both)
    assert losses_of(twin).keys() == ours.keys()
    assert stock_class(type(both)) is type(stock)


def test_the_average_of_a_student_is_of_the_student_alone():
    model = Distill(built(), teacher='ema', losses=dict(loss_hint=HINT))
    teacher = model.distiller.teacher.model
    assert type(teacher) is stock_class(type(model))
    assert list(teacher.state_dict()) == list(model.state_dict())
    losses_of(model)


def test_it_can_be_pickled_with_a_teacher():
    model = Distill(
        built(),
        teacher='self',
        losses=dict(
            loss_hint=dict(HINT, at='backbone', teacher_at='neck', resize='bilinear')
        ),
    )
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)


def test_the_students_config_is_the_stock_one():
    stock = blocks_net()
    both = dict(
        type='mmkd.Distill', student=augmented(), teacher='ema', losses=dict(a=HINT)
    )
    for model in (augmented(), both):
        cfg = student_config(dict(model=model, custom_imports=dict(imports='mmkd')))
        assert cfg.to_dict() == dict(model=stock)
