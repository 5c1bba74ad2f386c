"""mmengine's own loaders, resuming and inferencers on the safe path."""

import io

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner, checkpoint
from torch import nn
from torch.utils.data import Dataset

from mmkd.compat.checkpoint import TRUST_VARIABLE, UnsafeCheckpointError
from mmkd.compat.stock_loading import install_checkpoint_loading


@MODELS.register_module(force=True)
class Line(BaseModel):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.line = nn.Linear(2, 1)

    def forward(self, x, mode='tensor'):
        y = self.line(torch.stack(x))
        return dict(loss=y.square().mean()) if mode == 'loss' else y


@DATASETS.register_module(force=True)
class Points(Dataset):
    metainfo = dict(classes=('a', 'b'), palette=[(1, 2, 3)])

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(x=torch.tensor([1.0, index]))


def make_runner(folder, **kwargs) -> Runner:
    cfg = dict(
        model=dict(type='Line'),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=dict(type='Points'),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[
            dict(type='MultiStepLR', milestones=[1]),
            dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False),
        ],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        log_level='ERROR',
        experiment_name=f'{folder.name}_{id(kwargs)}',
    )
    return Runner.from_cfg(Config({**cfg, **kwargs}))


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a real run of two iterations, and the run."""
    runner = make_runner(tmp_path / 'first')
    runner.train()
    return tmp_path / 'first' / 'epoch_1.pth', runner


def rewritten(path, change):
    contents = torch.load(path, weights_only=False)
    change(contents)
    torch.save(contents, path)
    return str(path)


class Touch:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), 'w')


def test_a_real_run_resumes_exactly(trained, tmp_path):
    path, first = trained
    second = make_runner(
        tmp_path / 'second', train_cfg=dict(by_epoch=True, max_epochs=2)
    )
    second.resume(str(path))
    assert (second.epoch, second.iter) == (1, 2)
    for key, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value)
    momentum = [
        [s['momentum_buffer'] for s in r.optim_wrapper.optimizer.state.values()]
        for r in (first, second)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*momentum, strict=True))
    losses = [r.message_hub.get_scalar('train/loss').data[0] for r in (first, second)]
    assert losses[0].tolist() == losses[1].tolist()
    assert len(losses[0]) == 2
    assert second.param_schedulers[0].milestones == {1: 1}
    second.train()
    assert second.iter == 4


def test_torch_load_itself_is_untouched(trained):
    """And the run's file is one that torch by default refuses to load."""
    if tuple(int(x) for x in torch.__version__.split('.')[:2]) < (2, 6):
        pytest.skip('torch < 2.6 loads everything by default')
    with pytest.raises(Exception, match='Weights only load failed'):
        torch.load(trained[0])


def test_load_from_pretrained_and_load_checkpoint(trained, tmp_path):
    path, first = trained
    weight = first.model.line.weight
    by_load_from = make_runner(tmp_path / 'a', load_from=str(path))
    by_load_from.load_or_resume()
    assert torch.equal(by_load_from.model.line.weight, weight)
    pretrained = Line(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    pretrained.init_weights()
    assert torch.equal(pretrained.line.weight, weight)
    loaded = Line()
    checkpoint.load_checkpoint(loaded, str(path))
    assert torch.equal(loaded.line.weight, weight)


def test_urls_and_open_files(trained, tmp_path):
    path, first = trained
    loaded = checkpoint.load_from_http(path.as_uri(), 'cpu', str(tmp_path / 'zoo'))
    assert (tmp_path / 'zoo' / path.name).is_file()
    assert torch.equal(loaded['state_dict']['line.bias'], first.model.line.bias)
    loaded = checkpoint.torch.load(io.BytesIO(path.read_bytes()), map_location='cpu')
    assert torch.equal(loaded['state_dict']['line.bias'], first.model.line.bias)


def test_what_wants_to_run_is_refused_unless_trusted(trained, tmp_path, monkeypatch):
    path, target = trained[0], tmp_path / 'ran'
    file = rewritten(path, lambda c: c['meta'].update(evil=Touch(target)))
    uses = [
        lambda: make_runner(tmp_path / 'a').resume(file),
        lambda: make_runner(tmp_path / 'b', load_from=file).load_or_resume(),
        lambda: checkpoint.load_checkpoint(Line(), file),
        lambda: checkpoint.torch.load(io.BytesIO(path.read_bytes())),
    ]
    for use in uses:
        with pytest.raises(UnsafeCheckpointError, match=f'open.*{TRUST_VARIABLE}=1'):
            use()
    assert not target.exists()
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    for use in uses:
        use()
        assert target.exists()
        target.unlink()


def test_the_config_text_is_not_executed(trained, tmp_path, monkeypatch):
    target = tmp_path / 'ran'
    text = f"a = 1\nb = open({str(target)!r}, 'w').name\n"
    file = rewritten(trained[0], lambda c: c['meta'].update(config=text))
    with pytest.raises(ValueError, match=f'line 2: a call of open.*{TRUST_VARIABLE}=1'):
        make_runner(tmp_path / 'a').resume(file)
    assert not target.exists()
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    make_runner(tmp_path / 'b').resume(file)
    assert target.exists()


def test_resuming_still_compares_the_number_of_gpus(trained, tmp_path):
    file = rewritten(
        trained[0], lambda c: c['meta'].update(config='gpu_ids = range_\n')
    )
    with pytest.raises(ValueError, match='the name range_'):
        make_runner(tmp_path / 'a').resume(file)
    rewritten(trained[0], lambda c: c['meta'].update(config='gpu_ids = [0, 1]\n'))
    with pytest.raises(RuntimeError, match='Number of GPUs'):
        make_runner(tmp_path / 'b').resume(file)
    rewritten(trained[0], lambda c: c['meta'].update(config='gpu_ids = [0]\n'))
    runner = make_runner(tmp_path / 'c')
    runner.resume(file)
    assert runner.iter == 2


def test_the_users_own_text_still_is_a_config():
    cfg = Config.fromstring('a = max(1, 2)', '.py')
    assert cfg.a == 2


class Inferencer(BaseInferencer):
    def __init__(self):
        pass

    def _init_pipeline(self, cfg):
        raise NotImplementedError

    def visualize(self, inputs, preds):
        raise NotImplementedError

    def postprocess(self, preds, visualization, return_datasample=False):
        raise NotImplementedError


def test_inferencers_build_from_the_parsed_text(trained, tmp_path):
    path, first = trained
    model = Inferencer()._init_model(ConfigDict(), str(path))
    assert torch.equal(model.line.weight, first.model.line.weight)
    target = tmp_path / 'ran'

    texts = {
        f'model = dict(type="Line")\nopen({str(target)!r}, "w")\n': 'a call of open',
        f'model = dict(type="io.open", file={str(target)!r}, mode="w")': "'io.open'",
    }
    for text, reason in texts.items():
        file = rewritten(
            path, lambda c, t=text: c['message_hub']['runtime_info'].update(cfg=t)
        )
        with pytest.raises(ValueError, match=f'{reason}.*{TRUST_VARIABLE}=1'):
            Inferencer()._init_model(ConfigDict(), file)
    assert not target.exists()


def test_inferencers_build_the_student_alone_of_a_distillation_config(
    trained, tmp_path
):
    path, first = trained
    student = dict(type='Line')
    cfg = ConfigDict(
        model=dict(type='mmkd.Distill', student=student, teacher='gone.py', losses={})
    )
    model = Inferencer()._init_model(cfg, str(path))
    assert torch.equal(model.line.weight, first.model.line.weight)
    text = Config(cfg).pretty_text
    file = rewritten(path, lambda c: c['message_hub']['runtime_info'].update(cfg=text))
    model = Inferencer()._init_model(ConfigDict(), file)
    assert torch.equal(model.line.weight, first.model.line.weight)


def test_installing_twice_changes_nothing():
    before = (checkpoint.torch, checkpoint.load_url, Runner.resume, Config.fromstring)
    install_checkpoint_loading()
    assert before == (
        checkpoint.torch,
        checkpoint.load_url,
        Runner.resume,
        Config.fromstring,
    )
    assert checkpoint.torch.Tensor is torch.Tensor
