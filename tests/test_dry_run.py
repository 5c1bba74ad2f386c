"""The dry run: what it finds, that it leaves nothing behind, how it fails."""

import copy

import pytest
import torch
from mmengine.model import BaseModel, ImgDataPreprocessor
from torch import nn

from mmkd.dry_run import dry_run
from mmkd.rng import preserved_rng
from mmkd.taps import HeadView, Tap

BOTH = {'backbone': Tap, 'neck': Tap}


def shapes(tap: Tap) -> list[tuple[int, ...]]:
    levels = tap.value if isinstance(tap.value, tuple) else (tap.value,)
    return [tuple(level.shape) for level in levels]


def test_finds_the_shapes_of_two_small_images(toy_model, device):
    seen = dry_run(toy_model(width=6).to(device), BOTH)
    assert seen.failure is None
    assert shapes(seen.taps['backbone']) == [(2, 6, 64, 64)]
    assert shapes(seen.taps['neck']) == [(2, 6, 64, 64), (2, 6, 32, 32)]
    assert seen.taps['neck'].value[0].device.type == device.type
    assert not seen.taps['neck'].value[0].requires_grad


@pytest.mark.parametrize('training', [True, False])
def test_weights_buffers_and_flags_are_left_alone(toy_model, training):
    model = toy_model().train(training)
    model.neck.training = not training  # flags need not agree with each other
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    dry_run(model, BOTH)
    assert [module.training for module in model.modules()] == flags
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any('forward' in vars(module) for module in model.modules())


def test_the_callers_guard_keeps_the_random_state(toy_model):
    state = torch.get_rng_state()
    with preserved_rng():
        dry_run(toy_model(), BOTH)
    assert torch.equal(torch.get_rng_state(), state)


class FlagModel(BaseModel):
    """Says which of its parts were in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5))
        self.neck = nn.Dropout(0.5)
        self.seen = {}

    def forward(self, inputs, data_samples, mode):
        names = ('head', 'head.0', 'neck')
        self.seen = {name: self.get_submodule(name).training for name in names}
        self.seen.update(mode=mode, grad=torch.is_grad_enabled())
        return self.head(self.neck(inputs))


def test_runs_in_eval_mode_but_for_the_tapped_head_itself():
    model = FlagModel().train()
    dry_run(model, {'head': HeadView, 'neck': Tap})
    assert model.seen.pop('mode') == 'tensor'
    assert model.seen == {'head': True, 'head.0': False, 'neck': False, 'grad': False}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(('mean', 'channels'), [([0.0], 1), ([0.0] * 3, 3), (None, 3)])
def test_channels_follow_the_preprocessor(mean, channels):
    class Shape(BaseModel):
        def __init__(self):
            std = None if mean is None else [1.0] * len(mean)
            super().__init__(ImgDataPreprocessor(mean=mean, std=std))
            self.tapped = nn.Identity()

        def forward(self, inputs, data_samples, mode):
            return self.tapped(inputs)

    (found,) = shapes(dry_run(Shape(), {'tapped': Tap}).taps['tapped'])
    assert found == (2, channels, 128, 128)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_inputs_have_the_models_dtype(toy_model, dtype):
    seen = dry_run(toy_model().to(dtype), BOTH)
    assert seen.taps['neck'].value[0].dtype == dtype


class Shrinking(BaseModel):
    """Cannot take images below a size, as SSD's last levels cannot."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.first = nn.Identity()
        self.level = nn.AvgPool2d(least)

    def forward(self, inputs, data_samples, mode):
        return self.level(self.first(inputs))


@pytest.mark.parametrize(('least', 'size'), [(128, 128), (129, 256), (300, 512)])
def test_larger_images_are_tried_where_small_ones_fail(least, size):
    seen = dry_run(Shrinking(least), {'first': Tap, 'level': Tap})
    assert seen.failure is None
    assert shapes(seen.taps['first']) == [(2, 3, size, size)]


def test_a_model_that_fits_no_size_is_a_failure_with_its_reason():
    seen = dry_run(Shrinking(600), {'first': Tap, 'level': Tap})
    assert seen.failure.startswith('RuntimeError: ')
    assert 'too small' in seen.failure
    assert list(seen.taps) == ['first']  # what ran is known nevertheless


def test_a_head_that_fails_after_the_taps_is_no_failure(toy_model):
    model = toy_model(width=4)
    model.head = nn.Linear(99, 1)
    seen = dry_run(model, BOTH)
    assert seen.failure is None
    assert set(seen.taps) == {'backbone', 'neck'}


def test_a_module_that_does_not_run_is_named(toy_model):
    model = toy_model()
    model.unused = nn.Identity()
    seen = dry_run(model, {'neck': Tap, 'unused': Tap})
    assert seen.failure == "'unused' did not run in the forward pass"
    assert list(seen.taps) == ['neck']


def test_samples_carry_the_sizes_that_heads_read():
    class Reader(BaseModel):
        def __init__(self):
            super().__init__()
            self.tapped = nn.Identity()

        def forward(self, inputs, data_samples, mode):
            size = tuple(inputs.shape[2:])
            for sample in data_samples:
                assert sample.batch_input_shape == sample.img_shape == size
                assert sample.ori_shape == sample.pad_shape == size
                assert sample.metainfo['scale_factor'] == (1.0, 1.0)
            assert [sample.img_id for sample in data_samples] == [0, 1]
            return self.tapped(inputs)

    assert dry_run(Reader(), {'tapped': Tap}).failure is None


def checkpointed_resnet(depth: int) -> nn.Module:
    pytest.importorskip('mmdet')
    from mmdet.models.backbones import ResNet

    class Wrapped(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = ResNet(
                depth, base_channels=4, with_cp=True, norm_eval=False
            )

        def forward(self, inputs, data_samples, mode):
            return self.backbone(inputs)

    return Wrapped()


@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
@pytest.mark.parametrize(('depth', 'inside'), [(18, 'conv2'), (50, 'conv3')])
def test_a_tap_inside_a_checkpointed_block_is_an_error_when_built(depth, inside):
    model = checkpointed_resnet(depth)
    path = f'backbone.layer2.0.{inside}'
    with pytest.raises(RuntimeError, match=f"'{path}' runs inside .* with_cp=False"):
        dry_run(model, {path: Tap})
    assert all(module.training for module in model.modules())


@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
def test_a_tap_on_the_output_of_checkpointed_blocks_is_none():
    model = checkpointed_resnet(18)
    before = copy.deepcopy(model.state_dict())
    seen = dry_run(model, {'backbone.layer2': Tap, 'backbone.layer4.1': Tap})
    assert seen.failure is None
    assert shapes(seen.taps['backbone.layer2']) == [(2, 8, 16, 16)]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
def test_a_frozen_model_is_never_checkpointed():
    # A teacher: with_cp comes from its training config and does nothing any more.
    model = checkpointed_resnet(18).requires_grad_(False).eval()
    seen = dry_run(model, {'backbone.layer2.0.conv2': Tap})
    assert shapes(seen.taps['backbone.layer2.0.conv2']) == [(2, 8, 16, 16)]
