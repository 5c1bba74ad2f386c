"""docs/writing_a_method.md: the loss of 30 lines does what the page says of it."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_models
import torch
from mmengine.config import Config

from mmkd.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'writing_a_method.md').read_text(encoding='utf-8')
NAME, CLASS = 'cosine_imitation', 'CosineImitationLoss'
WIDTH, TEACHER_WIDTH = 16, 24


def block(language: str, contains: str) -> str:
    found = re.findall(rf'^```{language}\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
    [text] = [body for body in found if contains in body]
    return text


FILE = block('python', 'register_module')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('method')
    (folder / f'{NAME}.py').write_text(FILE, encoding='utf-8')
    return folder


@pytest.fixture
def module(folder, monkeypatch) -> ModuleType:
    """The file, imported; forgotten again, for the tests of every registered loss."""
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module(NAME)
    del MODELS.module_dict[CLASS], sys.modules[NAME]


def test_the_file_has_30_lines():
    assert len(FILE.splitlines()) <= 30
    assert max(map(len, FILE.splitlines())) <= 100


def test_its_value_is_the_formulas(module):
    rng = np.random.default_rng(3)
    # Of another length, too: directions alone count.
    s, t = rng.normal(size=(2, 3, 7, 2, 5)) * np.array([1.0, 9.0]).reshape(
        2, 1, 1, 1, 1
    )
    mask = rng.random((3, 1, 2, 5)) < 0.6

    unit_s, unit_t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    apart = 1 - np.einsum('nchw,nchw->nhw', unit_s, unit_t)

    s, t = torch.from_numpy(s), torch.from_numpy(t)
    value = module.cosine_loss(s, t)
    np.testing.assert_allclose(value, apart.mean(), rtol=1e-12)
    value = module.cosine_loss(s, t, torch.from_numpy(mask))
    np.testing.assert_allclose(value, apart[mask[:, 0]].mean(), rtol=1e-12)
    torch.testing.assert_close(module.cosine_loss(5 * t, t), t.new_zeros(()))
    torch.testing.assert_close(module.cosine_loss(-t, t), t.new_full((), 2.0))


@pytest.mark.parametrize('teacher_width', [WIDTH, TEACHER_WIDTH])
def test_it_trains_a_detector(module, teacher_width):
    model = tiny_models.distilled_detector(
        tiny_models.tiny_gfl(WIDTH),
        tiny_models.tiny_gfl(teacher_width),
        dict(loss_cosine=dict(type=f'mmkd.{CLASS}', at='neck')),
    )
    model.init_weights()
    loss = model.distiller.losses['loss_cosine']
    # An adapter where widths differ, and none where they do not.
    assert (loss.adapter is not None) == (teacher_width != WIDTH)
    teacher = model.distiller.teacher.model
    frozen = {k: v.clone() for k, v in teacher.state_dict().items()}
    before = {k: v.clone() for k, v in model.named_parameters()}

    batch = tiny_models.detection_batch()
    losses = tiny_models.losses_of(model, batch)
    assert 0 < losses['loss_cosine'] < 2
    # The term alone: what has a gradient has it from the term.
    losses['loss_cosine'].backward()
    for part in (model.backbone.conv1, model.neck, loss):
        for name, parameter in part.named_parameters():
            assert parameter.grad.abs().max() > 0, name
    assert all(x.grad is None for x in model.bbox_head.parameters())
    assert all(x.grad is None for x in teacher.parameters())

    torch.optim.SGD(model.parameters(), lr=0.05).step()
    assert not torch.equal(model.neck.fpn_convs[0].conv.weight,
                           before['neck.fpn_convs.0.conv.weight'])  # fmt: skip
    assert all(torch.equal(v, frozen[k]) for k, v in teacher.state_dict().items())
    assert tiny_models.losses_of(model, batch)['loss_cosine'] < losses['loss_cosine']


def test_with_weight_0_losses_and_gradients_are_the_stock_ones(module):
    student = tiny_models.tiny_gfl(WIDTH)
    stock = tiny_models.build(student.model, 'mmdet')
    model = tiny_models.distilled_detector(
        student,
        tiny_models.tiny_gfl(TEACHER_WIDTH),
        dict(loss_cosine=dict(type=f'mmkd.{CLASS}', at='neck', loss_weight=0)),
    )
    model.load_state_dict(stock.state_dict())
    batch = tiny_models.detection_batch()
    losses, expected = (tiny_models.losses_of(m, batch) for m in (model, stock))
    assert losses.pop('loss_cosine') == 0
    assert losses.keys() == expected.keys()
    tiny_models.total(losses).backward()
    tiny_models.total(expected).backward()
    for name, value in expected.items():
        values = zip(tiny_models.tensors(losses[name]), tiny_models.tensors(value))
        assert all(torch.equal(ours, theirs) for ours, theirs in values), name
    ours = dict(model.named_parameters())
    for name, parameter in stock.named_parameters():
        assert torch.equal(ours[name].grad, parameter.grad), name


def test_the_shown_config_uses_it(folder, module):
    (folder / 'config.py').write_text(block('text', '_base_'), encoding='utf-8')
    cfg = Config.fromfile(folder / 'config.py')
    cfg.model.teacher = dict(
        config=cfg.model.teacher, checkpoint=None, allow_random=True
    )
    model = MODELS.build(cfg.model)
    assert type(model.distiller.losses['loss_cosine']) is module.CosineImitationLoss


def test_the_shown_reference_agrees_and_notices_a_change(module):
    reference = block('python', 'np.ndindex')
    exec(compile(reference, 'reference', 'exec'), {})
    loss = module.cosine_loss
    module.cosine_loss = lambda *x: loss(*x) * 0.999
    with pytest.raises(AssertionError):
        exec(compile(reference, 'reference', 'exec'), {})


@pytest.mark.timeout(900)  # a whole run of pytest
def test_the_contract_of_all_losses_covers_it(folder):
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', 'tests/losses/test_contract.py', '-q',
         '-p', NAME, '-k', CLASS, '-p', 'no:cacheprovider'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}'},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.search(r'(\d+) passed', done.stdout)[1]) >= 20
