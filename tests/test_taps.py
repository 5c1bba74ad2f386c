"""Taps: what is recorded, when a pass ends early, and that nothing stays behind."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmkd.taps import HeadView, Tap, record, resolve


class Doubling(nn.Module):
    """Calls counted; ``twice`` is a second method to tap."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x, offset=0):
        self.runs += 1
        return self.twice(x) + offset

    def twice(self, x):
        return 2 * x


class Model(nn.Module):
    """``a``, then ``tower`` on three levels, then ``last``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = Doubling()
        self.tower = nn.Sequential(Doubling(), nn.Identity())
        self.last = Doubling()

    def forward(self, x):
        x = self.a.forward(x, offset=1)  # as mmseg calls its heads: no hook fires
        levels = [self.tower(x * k) for k in (1, 2, 3)]
        return self.last(sum(levels))


@pytest.fixture
def model() -> Model:
    return Model()


def touched(model: nn.Module) -> list[str]:
    """Modules with attributes that came on top of what they were built with."""
    names = ('forward', 'twice')
    return [
        path
        for path, module in model.named_modules()
        if any(name in vars(module) for name in names) or module._forward_hooks
    ]


@pytest.mark.parametrize('path', ['a', 'tower', 'tower.0'])
def test_resolve_finds_submodules(model, path):
    assert resolve(model, path) is model.get_submodule(path)


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('tower2', "'tower2' is not a sub-module of Model; did you mean 'tower'? "
                   'It has: a, tower, last'),
        ('tower.1.x', "'tower.1.x' is not a sub-module of tower.1. It has: no sub-mod"),
        ('tower.5', "'tower.5' is not a sub-module of tower. It has: 0, 1"),
        ('zzz', "'zzz' is not a sub-module of Model. It has: a, tower, last"),
        ('forward', "'forward' is not a sub-module of Model"),
    ],
)  # fmt: skip
def test_resolve_says_what_there_is(model, path, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve(model, path)


def test_resolve_completes_the_whole_path():
    model = nn.ModuleDict(dict(backbone=nn.ModuleDict(dict(layer4=nn.ReLU()))))
    with pytest.raises(ValueError, match="did you mean 'backbone.layer4'"):
        resolve(model, 'backbone.layer5')


class WithArguments(Tap):
    keeps_arguments = ('forward',)


def test_both_kinds_of_calls_are_recorded_with_their_arguments(model):
    x = torch.ones(2)
    with record(model, {'a': WithArguments, 'last': Tap}) as taps:
        y = model(x)
    assert taps['a'].value.tolist() == [3, 3]
    assert taps['last'].calls['forward'][0].args == ()
    (call,) = taps['a'].calls['forward']
    assert call.args[0] is x
    assert call.kwargs == dict(offset=1)
    assert torch.equal(taps['last'].value, y)


def test_repeated_calls_are_a_list_in_order(model):
    with record(model, {'tower': Tap}) as taps:
        model(torch.ones(1))
    assert taps['tower'].count == 3
    assert [x.item() for x in taps['tower'].value] == [6, 12, 18]


def test_a_module_that_never_ran_has_no_calls(model):
    with record(model, {'a': Tap}) as taps:
        pass
    assert taps['a'].count == 0
    assert taps['a'].value == []


def test_gradients_flow_through_what_is_recorded(model):
    x = torch.ones(2, requires_grad=True)
    with record(model, {'tower': Tap}) as taps:
        model(x)
    sum(level.sum() for level in taps['tower'].value).backward()
    assert x.grad.tolist() == [24, 24]  # 2 * (1 + 2 + 3) * 2


def test_the_result_is_that_of_the_model_alone(model):
    x = torch.randn(3)
    plain = model(x)
    with record(model, {'a': Tap, 'tower.0': Tap}):
        assert torch.equal(model(x), plain)


class Methods(Tap):
    methods = ('forward', 'twice', 'absent')


def test_views_record_further_methods_where_they_exist(model):
    with record(model, {'last': Methods}) as taps:
        y = model(torch.ones(1))
    assert list(taps['last'].calls) == ['forward', 'twice']
    assert taps['last'].calls['twice'][0].output.item() == y.item()


def test_a_head_view_is_its_own_value_and_knows_its_only_call(model):
    with record(model, {'last': HeadView, 'tower': HeadView}) as taps:
        y = model(torch.ones(1))
    assert taps['last'].value is taps['last']
    assert torch.equal(taps['last'].outputs, y)
    with pytest.raises(ValueError, match='must run once but ran 3 times'):
        _ = taps['tower'].outputs
    with pytest.raises(NotImplementedError, match='HeadView has no class logits'):
        _ = taps['last'].logits


def test_nothing_stays_on_the_model(model):
    with record(model, {'a': Methods, 'tower.0': Tap}):
        assert touched(model) == ['a', 'tower.0']
        model(torch.ones(1))
    assert touched(model) == []
    model(torch.ones(1))
    assert model.a.runs == 2


def test_nothing_stays_after_an_exception(model):
    with pytest.raises(TypeError), record(model, {'a': Tap, 'tower': Tap}):
        model('no tensor')
    assert touched(model) == []


def test_nothing_is_changed_by_a_wrong_path(model):
    with (
        pytest.raises(ValueError, match="'b' is not"),
        record(model, dict(a=Tap, b=Tap)),
    ):
        pass
    assert touched(model) == []


def test_a_copy_made_afterwards_records_nothing(model):
    with record(model, {'a': Tap}) as taps:
        model(torch.ones(1))
    copy.deepcopy(model)(torch.ones(1))
    assert taps['a'].count == 1


def test_a_replaced_forward_is_used_and_put_back(model):
    def replaced(x, offset=0):
        return x + 100

    model.a.forward = replaced
    with record(model, {'a': Tap}) as taps:
        model(torch.ones(1))
    assert taps['a'].value.item() == 101
    assert model.a.forward is replaced


def test_a_module_known_by_two_paths_is_recorded_under_both():
    shared = Doubling()
    model = nn.ModuleDict(dict(first=shared, second=shared))
    with record(model, dict(first=Tap, second=Tap)) as taps:
        y = shared(torch.ones(1))
    assert torch.equal(taps['first'].value, y)
    assert torch.equal(taps['second'].value, y)
    assert touched(model) == []


def test_nested_recordings_see_the_same_calls(model):
    with record(model, {'tower': Tap}) as outer:
        with record(model, {'tower': Tap, 'tower.0': Tap}) as inner:
            model(torch.ones(1))
        assert touched(model) == ['tower']
        assert inner['tower'].value == outer['tower'].value
        assert inner['tower.0'].count == 3
        model.last(torch.ones(1))
    assert touched(model) == []


def test_the_pass_stops_once_every_tap_has_what_it_needs(model):
    passed = False
    with record(model, {'a': Tap, 'tower': Tap}, {'a': 1, 'tower': 2}) as taps:
        model(torch.ones(1))
        passed = True
    assert not passed
    assert taps['tower'].count == 2
    assert model.tower[0].runs == 2
    assert model.last.runs == 0
    assert touched(model) == []


def test_the_pass_goes_on_while_one_tap_waits(model):
    with record(model, {'a': Tap, 'last': Tap}, {'a': 1, 'last': 1}) as taps:
        model(torch.ones(1))
    assert taps['a'].count == taps['last'].count == 1
    assert model.last.runs == 1


def test_a_parent_and_its_child_both_get_their_outputs(model):
    with record(
        model, {'tower': Tap, 'tower.0': Tap}, {'tower': 3, 'tower.0': 3}
    ) as taps:
        model(torch.ones(1))
    assert taps['tower'].count == taps['tower.0'].count == 3
    assert model.last.runs == 0


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.inside = nn.Linear(2, 2)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=self.use_reentrant)


def test_a_tap_inside_reentrant_checkpointing_is_an_error():
    # There the tapped tensor has no gradient: training would silently go on alone.
    model = nn.Sequential(Checkpointed(use_reentrant=True))
    x = torch.ones(1, 2, requires_grad=True)
    refused = pytest.raises(RuntimeError, match=r"'0\.inside' runs inside gradient")
    with refused, record(model, {'0.inside': Tap}):
        model(x)
    assert touched(model) == []


def test_a_tap_around_checkpointing_gets_its_gradient():
    model = nn.Sequential(Checkpointed(use_reentrant=True))
    x = torch.ones(1, 2, requires_grad=True)
    with record(model, {'0': Tap}) as taps:
        model(x)
    taps['0'].value.sum().backward()
    assert taps['0'].count == 1
    torch.testing.assert_close(x.grad, model[0].inside.weight.sum(0)[None])


def test_a_tap_inside_other_checkpointing_gets_its_gradient_once():
    model = nn.Sequential(Checkpointed(use_reentrant=False))
    x = torch.ones(1, 2, requires_grad=True)
    with record(model, {'0.inside': Tap}) as taps:
        model(x)
    taps['0.inside'].value.sum().backward()  # runs the module again
    assert taps['0.inside'].count == 1
    torch.testing.assert_close(x.grad, model[0].inside.weight.sum(0)[None])


def test_without_gradients_checkpointing_is_no_obstacle():
    model = nn.Sequential(Checkpointed(use_reentrant=True))
    with torch.no_grad(), record(model, {'0.inside': Tap}) as taps:
        y = model(torch.ones(1, 2))
    assert torch.equal(taps['0.inside'].value, y)


def test_the_empty_path_is_the_model(model):
    assert resolve(model, '') is model
    with record(model, {'': Tap}) as taps:
        y = model(torch.ones(1))
    assert torch.equal(taps[''].value, y)


def test_what_happens_to_a_tensor_later_is_not_recorded():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with record(model, {'0': Tap}) as taps:
        y = model(torch.tensor([-1.0, 1.0]))
    assert taps['0'].value.tolist() == [-1, 1]
    assert y.tolist() == [0, 1]


def test_a_head_that_ran_twice_has_no_only_output(model):
    with record(model, {'a': HeadView}) as taps:
        model(torch.ones(1))
        model(torch.ones(1))
    with pytest.raises(ValueError, match="'a' must run once but ran 2 times"):
        _ = taps['a'].outputs
