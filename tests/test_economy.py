"""Economies of a teacher: what is exact is close, what is a choice is what it says."""

import pickle

import pytest
import torch
from mmengine.registry import init_default_scope
from tiny_models import detection_batch, distilled_detector, tiny_gfl, tiny_two_stage
from torch import nn

from mmkd.batch import Batch
from mmkd.dry_run import dry_run
from mmkd.economize import Economized
from mmkd.economy import Economy, compile_below
from mmkd.taps import Tap
from mmkd.teacher import Teacher, build_teacher

LOSSES = dict(
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_kd=dict(type='mmkd.ClassificationDistillationLoss'),
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
)
SOFT = dict(loss_soft=dict(type='mmkd.WeightedSoftCrossEntropyLoss'))
PLAIN = dict(fold_norms=False, prune=False, channels_last=False)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Weights of a teacher whose norms have seen data."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = build_teacher(dict(config=tiny_gfl(), checkpoint=None, allow_random=True))
    for module in model.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(model.model.state_dict(), path)
    return str(path)


def losses_with(checkpoint, losses=LOSSES, **economy):
    torch.manual_seed(1)
    model = distilled_detector(
        tiny_gfl(8), tiny_gfl(), losses, checkpoint=checkpoint, **economy
    )
    data = model.data_preprocessor(detection_batch(), True)
    found = model(**data, mode='loss')
    total = sum(found[name] for name in losses)
    total.backward()
    gradients = torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )
    return model, {name: found[name].item() for name in losses}, gradients


@pytest.fixture(scope='module')
def plain(checkpoint):
    return losses_with(checkpoint, **PLAIN)


def test_nothing_is_done_where_nothing_is_wanted(plain):
    model = plain[0]
    network = model.distiller.teacher.model
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert model.distiller.teacher._unused == set()


@pytest.mark.parametrize(
    'economy',
    [
        dict(),
        dict(PLAIN, fold_norms=True),
        dict(PLAIN, prune=True),
        dict(PLAIN, channels_last=True),
    ],
    ids=['all', 'fold_norms', 'prune', 'channels_last'],
)
def test_exact_economies_give_the_same_losses_and_gradients(checkpoint, plain, economy):
    _, expected, expected_gradients = plain
    _, found, gradients = losses_with(checkpoint, **economy)
    assert found == pytest.approx(expected, rel=1e-4)
    error = (gradients - expected_gradients).norm() / expected_gradients.norm()
    assert error < 1e-3


@pytest.mark.parametrize(('dtype', 'limit'), [('bf16', 0.05), ('fp16', 0.01)])
def test_half_precision_is_near_and_no_other_network_notices(
    checkpoint, plain, dtype, limit
):
    if dtype == 'fp16' and torch.__version__ < '2.2':
        pytest.skip('convolutions in fp16 on a CPU need torch 2.2')
    model, found, _ = losses_with(checkpoint, dtype=dtype)
    assert found == pytest.approx(plain[1], rel=limit)
    assert found != plain[1]
    teacher = model.distiller.teacher.model
    half = dict(bf16=torch.bfloat16, fp16=torch.float16)[dtype]
    assert teacher.backbone.conv1.weight.dtype == half
    assert teacher.bbox_head.reg_convs[0].gn.weight.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_half_precision_of_regions_that_are_scored_later():
    model = distilled_detector(tiny_two_stage(8), tiny_two_stage(), SOFT, dtype='bf16')
    data = model.data_preprocessor(detection_batch(), True)
    loss = model(**data, mode='loss')['loss_soft']
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0


def test_what_is_compiled_contains_no_tap():
    """The modules are chosen; nothing is compiled before it runs."""
    init_default_scope('mmdet')
    teacher = build_teacher(dict(config=tiny_gfl(), checkpoint=None, allow_random=True))
    model = teacher.model
    assert compile_below(model, {'backbone.layer2': Tap, 'neck': Tap}) > 3
    compiled = {n for n, m in model.named_modules() if 'forward' in vars(m)}
    assert {'backbone.layer1', 'backbone.layer2', 'neck', 'bbox_head'} <= compiled
    assert not {'', 'backbone'} & compiled


def test_a_teacher_that_will_be_compiled_travels_by_pickle(checkpoint):
    teacher = build_teacher(
        dict(config=tiny_gfl(), checkpoint=checkpoint, compile=True)
    )
    teacher.economize(teacher.dry_run({'neck': Tap}), {'neck': None})
    other = pickle.loads(pickle.dumps(teacher))
    assert other.economy.compile
    assert other._economized.folded == teacher._economized.folded == 20


def test_a_failing_compiler_says_what_to_do(monkeypatch):
    def broken(function):
        def run(*args):
            raise OSError('no compiler')

        return run

    monkeypatch.setattr(torch, 'compile', broken)
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    assert compile_below(model, {}) == 1
    message = 'compiled Conv2d of the teacher failed: .*no compiler; set teacher.comp'
    with pytest.raises(RuntimeError, match=message):
        model(torch.zeros(1, 1, 1, 1))


def test_a_stream_is_for_gpus_alone(checkpoint, plain):
    """On a CPU there is none, and the numbers are the same."""
    model, found, _ = losses_with(checkpoint, **PLAIN, stream=True)
    assert found == plain[1]
    assert model.distiller.teacher._stream is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_stream_of_its_own_gives_the_same_losses(checkpoint):
    found = []
    for stream in (False, True):
        torch.manual_seed(1)
        model = distilled_detector(
            tiny_gfl(8), tiny_gfl(), LOSSES, checkpoint=checkpoint, stream=stream
        ).cuda()
        data = model.data_preprocessor(detection_batch(), True)
        losses = model(**data, mode='loss')
        found.append({name: losses[name].item() for name in LOSSES})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(dtype='int8'), "dtype must be None, 'bf16' or 'fp16' but is 'int8'"),
        (dict(prune='no'), "prune must be True or False but is 'no'"),
        (dict(channels_last=1), 'channels_last must be True or False but is 1'),
        (dict(folding=True), r"teacher accepts .* but was given \['folding'\]"),
    ],
)
def test_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        build_teacher(
            dict(config=tiny_gfl(), checkpoint=None, allow_random=True, **option)
        )


class Outlier(nn.Module):
    """A network whose output explodes what rounding leaves: folding is refused."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.out = nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        y = self.norm(self.conv(inputs))
        return self.out(y * 1e6 % 1.0)


def test_folding_that_would_change_the_taps_is_undone():
    torch.manual_seed(0)
    model = Outlier().eval().requires_grad_(False)
    nn.init.uniform_(model.norm.running_var, 0.5, 2)
    done = Economized(model, Economy(), dry_run(model, {'out': Tap}), {'out': None})
    assert done.folded == 0
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert model.conv.bias is None


class Picky(nn.Module):
    """A network with an operator that wants the usual memory format."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.out = nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        y = self.conv(inputs)
        return self.out(y.view(1, -1, *y.shape[2:]))


def test_a_network_that_wants_the_usual_memory_format_gets_it():
    teacher = Teacher(Picky(), economy=Economy(channels_last=True))
    teacher.economize(teacher.dry_run({'out': Tap}), {'out': None})
    x = torch.randn(2, 3, 8, 8)
    tap = teacher.run(Batch(x), {'out': Tap}, reads={'out': None})['out']
    assert torch.equal(tap.value, teacher.model(x))
    assert teacher._format == torch.contiguous_format


class Query(nn.Module):
    """A weight that is used and never called."""

    def __init__(self):
        super().__init__()
        self.conv, self.query = nn.Conv2d(3, 4, 1), nn.Embedding(1, 4)
        self.idle, self.out = nn.Linear(2, 2), nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.out(self.conv(inputs) + self.query.weight[0, :, None, None])


def test_a_weight_that_is_used_without_a_call_is_used():
    teacher = Teacher(Query(), economy=Economy())
    teacher.economize(teacher.dry_run({'out': Tap}), {'out': None})
    assert teacher.model.query not in teacher._unused
    teacher.apply(lambda t: t.double())
    assert teacher.model.query.weight.dtype == torch.float64


def test_an_own_device_does_not_cast_what_half_precision_left(checkpoint):
    option = dict(config=tiny_gfl(), checkpoint=checkpoint, dtype='bf16', device='cpu')
    teacher = build_teacher(option)
    teacher.economize(teacher.dry_run({'neck': Tap}), {'neck': None})
    teacher.apply(lambda t: t.double())
    assert teacher.model.backbone.conv1.weight.dtype == torch.bfloat16
    assert teacher.model.bbox_head.reg_convs[0].gn.weight.dtype == torch.float32


@pytest.mark.parametrize(('dilation', 'expected'), [(1, True), (2, False)])
def test_channels_last_where_it_is_faster_on_a_cpu(dilation, expected):
    for choice, wanted in ((None, expected), (True, True), (False, False)):
        model = nn.Module()
        model.out = nn.Conv2d(3, 4, 3, dilation=dilation)
        model.forward = lambda inputs, data_samples=None, mode='tensor', m=model: m.out(
            inputs
        )
        teacher = Teacher(model, economy=Economy(channels_last=choice))
        teacher.economize(teacher.dry_run({'out': Tap}), {'out': None})
        x = torch.randn(1, 3, 8, 8)
        teacher.run(Batch(x), {'out': Tap}, reads={'out': None})
        last = model.out.weight.is_contiguous(memory_format=torch.channels_last)
        assert last == wanted


def test_a_term_that_is_off_taps_what_nobody_reads(checkpoint):
    losses = dict(
        loss_ld=LOSSES['loss_ld'], loss_hint=dict(LOSSES['loss_hint'], loss_weight=0.0)
    )
    _, found, _ = losses_with(checkpoint, losses)
    assert found['loss_ld'] > 0
    assert found['loss_hint'] == 0
