"""Mixed precision, other dtypes, accumulated gradients, another device."""

import copy

import pytest
import torch
from toy import (
    CWD,
    HINT,
    distilled,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    train,
)

from mmkd.batch import Batch
from mmkd.taps import Tap

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)
NAMES = {'loss', 'loss_cls', 'loss_hint', 'loss_cwd'}


@pytest.fixture
def model(tmp_path):
    return make_runner(distilled(BOTH, dropout=0.0), tmp_path).model


@pytest.fixture
def batch(tmp_path, model):
    loader = make_runner(distilled(), tmp_path / 'data').build_dataloader(
        dict(
            dataset=dict(type='ToyDigits', augment=False),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=4,
        )
    )
    return model.data_preprocessor(next(iter(loader)), True)


def test_mixed_precision_is_close_to_full(tmp_path):
    changes = {'default_hooks.checkpoint.interval': 9}
    full = recorded(train(distilled(BOTH), tmp_path / 'a', **changes))
    amp = {'optim_wrapper.type': 'CpuAmpOptimWrapper'}
    mixed = recorded(train(distilled(BOTH), tmp_path / 'b', **changes, **amp))
    assert set(mixed[0]) == NAMES
    assert any(mixed[0][name] != full[0][name] for name in NAMES)
    for name in NAMES:  # bfloat16 has 8 significant bits
        assert mixed[0][name] == pytest.approx(full[0][name], rel=0.03)
        assert mixed[7][name] == pytest.approx(full[7][name], rel=0.1)


def test_the_losses_are_computed_in_full_precision_under_autocast(model, batch):
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**batch, mode='loss')
        assert model.neck(model.backbone(batch['inputs'])).dtype == torch.bfloat16
    assert losses['loss_hint'].dtype == losses['loss_cwd'].dtype == torch.float32
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def skip_where_torch_lacks(dtype):
    try:
        torch.nn.functional.conv2d(*torch.zeros(2, 1, 1, 1, 1, dtype=dtype))
    except RuntimeError as error:
        pytest.skip(f'this torch on the CPU: {error}')


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('how', ['to', 'method'])
def test_a_cast_reaches_the_teacher(dtype, how, model, batch):
    skip_where_torch_lacks(dtype)
    expected = {k: v.item() for k, v in model(**batch, mode='loss').items()}
    methods = {
        torch.float64: model.double,
        torch.bfloat16: model.bfloat16,
        torch.float16: model.half,
    }
    cast = model.to(dtype) if how == 'to' else methods[dtype]()
    assert cast is model
    teacher = model.distiller.teacher.model
    for network in (model, teacher):
        assert {p.dtype for p in network.parameters()} == {dtype}
    losses = model(inputs=batch['inputs'].to(dtype), **_samples(batch), mode='loss')
    tolerance = 1e-5 if dtype == torch.float64 else 0.05
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        expected, rel=tolerance
    )
    losses['loss_hint'].backward()
    assert model.neck.weight.grad.dtype == dtype


def _samples(batch):
    return dict(data_samples=batch['data_samples'])


def test_the_teacher_stays_frozen_and_in_eval(model):
    teacher = model.distiller.teacher.model
    for call in (model.train, lambda: model.train(False), model.eval, model.train):
        assert call() is model
        assert not any(module.training for module in teacher.modules())
    assert model.training
    assert model.backbone.training
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_that_stays_on_a_device(tmp_path, batch, model):
    """On one machine without a GPU: the path of tensors between devices is taken."""
    cfg = distilled(BOTH, dropout=0.0)
    cfg['teacher']['device'] = 'cpu'
    other = make_runner(cfg, tmp_path / 'other').model
    assert other.distiller.teacher.device == torch.device('cpu')
    other.load_state_dict(model.state_dict())
    other.distiller.load_state_dict(model.distiller.state_dict())
    with torch.no_grad():
        ours, theirs = (m(**batch, mode='loss') for m in (model, other))
    assert {k: v.item() for k, v in ours.items()} == {
        k: v.item() for k, v in theirs.items()
    }


def test_the_teacher_goes_where_a_copy_trains(model):
    twin = copy.deepcopy(model).to('meta')
    teacher = model.distiller.teacher
    assert twin.distiller.teacher is teacher
    assert {p.device.type for p in teacher.model.parameters()} == {'cpu'}
    images = torch.zeros(1, 3, 32, 32, device='meta')
    taps = teacher.run(Batch(images), {'neck': Tap})
    assert taps['neck'].value.device.type == 'meta'


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    """GroupNorm, nothing random: two halves of a batch are the batch."""
    plain = dict(_delete_=True, type='SGD', lr=0.1)
    changes = {
        'train_dataloader.dataset.augment': False,
        'optim_wrapper.optimizer': plain,
        'train_cfg.max_epochs': 1,
    }
    cfg = distilled(BOTH, norm='GN', dropout=0.0)
    whole = train(cfg, tmp_path / 'a', **changes)
    halves = {
        'train_dataloader.batch_size': 2,
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.optimizer': dict(plain),
    }
    accumulated = train(cfg, tmp_path / 'b', **{**changes, **halves})
    assert (len(recorded(whole)), len(recorded(accumulated))) == (4, 8)
    for one, other in zip(
        whole.model.parameters(), accumulated.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
