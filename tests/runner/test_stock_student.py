"""A distilled detector in stock hands: its checkpoint, its copies, its pickles."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import digits_detector
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from toy import (
    differences,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    training_state,
)

from mmkd.config import student_config
from mmkd.demo.digits import make_digits

HERE = Path(__file__).parent
LOSSES = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
    loss_cwd=dict(
        type='mmkd.ChannelWiseDivergenceLoss', at='bbox_head', loss_weight=0.5
    ),
)

# mmcv-lite has no compiled operators: those that GFL's import and prediction need
# stand here in the place of mmkd's.
STOCK_PROCESS = """
import importlib.machinery, sys, types
import torch, torchvision

class Operators(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None

import mmcv
if importlib.machinery.PathFinder.find_spec('mmcv._ext', mmcv.__path__) is None:
    ext = Operators('mmcv._ext')
    ext.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None)
    ext.nms = lambda boxes, scores, iou_threshold, offset: torchvision.ops.nms(
        boxes, scores, iou_threshold)
    sys.modules['mmcv._ext'] = ext

from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict

config, checkpoint, images, out = sys.argv[1:]
torch.set_num_threads(1)
register_all_modules()
model = MODELS.build(Config.fromfile(config).model)
state = torch.load(checkpoint, weights_only=False)['state_dict']
print(model.load_state_dict(state, strict=True))
load_state_dict(model, state, strict=True)
data = torch.load(images)
size = tuple(data[0].shape[1:])
meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
samples = [DetDataSample(metainfo=dict(meta, img_id=i)) for i in range(len(data))]
model.eval()
with torch.no_grad():
    raw = model(torch.stack(data).float() / 64 - 2, mode='tensor')
    results = model.test_step(dict(inputs=data, data_samples=samples))
found = [r.pred_instances for r in results]
torch.save((raw, [(f.bboxes, f.scores, f.labels) for f in found]), out)
assert not [name for name in sys.modules if name.split('.')[0] == 'mmkd']
print('stock only')
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A distilled GFL after six iterations."""
    folder = tmp_path_factory.mktemp('run') / 'distilled'
    digits = make_digits(folder.with_name('digits'), num_train=6, num_val=2, size=64)
    runner = Runner.from_cfg(digits_detector.distilled(digits, folder, LOSSES))
    runner.train()
    return runner


@pytest.fixture(scope='module')
def train_batch(run):
    return pseudo_collate([run.train_dataloader.dataset[i] for i in range(2)])


def test_both_terms_and_every_weight_took_part(run):
    assert len(recorded(run)) == 6
    for step in recorded(run):
        assert step['loss_hint'] > 0
        assert step['loss_cwd'] > 0
    state = training_state(run)
    assert len(state['optimizer']['state']) == len(state['model'])


def test_stock_code_loads_the_checkpoint_and_predicts_the_same(run, tmp_path):
    config = tmp_path / 'student.py'
    cfg = student_config(run.cfg)
    assert cfg.pop('custom_imports').imports == ['toy']  # the hook that records
    cfg.dump(config)
    images = [run.val_dataloader.dataset[i]['inputs'] for i in range(2)]
    torch.save(images, tmp_path / 'images.pth')
    last = Path(run.work_dir, 'last_checkpoint').read_text()
    arguments = [config, last, tmp_path / 'images.pth', tmp_path / 'out.pth']
    done = subprocess.run(
        [sys.executable, '-c', STOCK_PROCESS, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '<All keys matched successfully>' in done.stdout
    assert done.stdout.endswith('stock only\n')

    samples = [run.val_dataloader.dataset[i]['data_samples'] for i in range(2)]
    for sample in samples:
        size = images[0].shape[1:]
        sample.set_metainfo(
            dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        )
    run.model.eval()
    with torch.no_grad():
        raw = run.model(torch.stack(images).float() / 64 - 2, mode='tensor')
        ours = run.model.test_step(dict(inputs=images, data_samples=samples))
    stock_raw, stock = torch.load(tmp_path / 'out.pth')
    assert differences(raw, stock_raw) == []
    for result, theirs in zip(ours, stock, strict=True):
        found = result.pred_instances
        assert len(found) >= 10
        assert differences((found.bboxes, found.scores, found.labels), theirs) == []


def losses_of(model, batch, generator_seed=0):
    model.train()
    torch.manual_seed(generator_seed)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    losses = model(**data, mode='loss')
    return {
        name: [v.item() for v in value] if isinstance(value, list) else value.item()
        for name, value in losses.items()
    }


def test_a_deep_copy_shares_the_teacher_and_nothing_else(run, train_batch):
    twin = copy.deepcopy(run.model)
    assert type(twin) is type(run.model)
    assert twin.distiller.teacher is run.model.distiller.teacher
    ours = {p.data_ptr() for p in run.model.parameters()}
    assert ours.isdisjoint(p.data_ptr() for p in twin.parameters())
    assert list(twin.state_dict()) == list(run.model.state_dict())
    assert losses_of(twin, train_batch) == losses_of(
        copy.deepcopy(run.model), train_batch
    )


def test_moving_a_copy_leaves_the_shared_teacher(run, train_batch):
    """EMA may keep its copy on another device or in another precision."""
    before = losses_of(copy.deepcopy(run.model), train_batch)
    copy.deepcopy(run.model).double()
    copy.deepcopy(run.model).to('meta')
    assert losses_of(copy.deepcopy(run.model), train_batch) == before


SPAWNED = """
import pickle, sys
import torch
torch.set_num_threads(1)
from test_stock_student import losses_of
model, batch = pickle.load(open(sys.argv[1], 'rb'))
result = type(model).__name__, losses_of(model, batch), model
pickle.dump(result, open(sys.argv[2], 'wb'))
"""


def test_a_pickle_travels_to_a_fresh_process(run, train_batch, tmp_path):
    model = copy.deepcopy(run.model)
    (tmp_path / 'in').write_bytes(pickle.dumps((model, train_batch)))
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    done = subprocess.run(
        [sys.executable, '-c', SPAWNED, str(tmp_path / 'in'), str(tmp_path / 'out')],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name, losses, back = pickle.loads((tmp_path / 'out').read_bytes())
    assert name == 'DistillDetector[GFL]'
    assert losses == losses_of(model, train_batch)
    assert type(back) is type(model)
    assert back.distiller.teacher.digest == model.distiller.teacher.digest
    assert differences(back.state_dict(), model.state_dict()) == []  # BatchNorm moved


def test_double_precision_of_a_real_detector(run, train_batch):
    single = losses_of(copy.deepcopy(run.model), train_batch)
    # The copy shares its teacher: a pickle has its own.
    model = pickle.loads(pickle.dumps(run.model)).double()
    data = model.data_preprocessor(copy.deepcopy(train_batch), True)
    data['inputs'] = data['inputs'].double()
    losses = model.train()(**data, mode='loss')
    for name in ('loss_hint', 'loss_cwd'):
        assert losses[name].item() == pytest.approx(single[name], rel=1e-3)
    teacher = model.distiller.teacher.model
    # What no loss reads, its head, stays as it was.
    for part in (teacher.backbone, teacher.neck):
        assert {p.dtype for p in part.parameters()} == {torch.float64}
    own = run.model.distiller.teacher.model
    assert {p.dtype for p in own.parameters()} == {torch.float32}
