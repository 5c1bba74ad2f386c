"""The teacher: frozen, beside the student, run no further than needed."""

import copy
import pickle

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from mmkd.batch import Batch
from mmkd.taps import Tap
from mmkd.teacher import Teacher


def test_it_is_frozen_and_in_eval(toy_model):
    teacher = Teacher(toy_model().train())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not any(m.training for m in teacher.model.modules())


def test_it_is_no_part_of_what_holds_it(toy_model):
    student = nn.Linear(1, 1)
    student.teacher = Teacher(toy_model())
    assert set(student.state_dict()) == {'weight', 'bias'}
    assert len(list(student.parameters())) == 2
    assert len(list(student.modules())) == 1
    student.train()
    assert not student.teacher.model.training


def test_copies_share_it(toy_model):
    teacher = Teacher(toy_model())
    assert copy.deepcopy(teacher) is teacher
    holder = nn.Linear(1, 1)
    holder.teacher = teacher
    assert copy.deepcopy(holder).teacher is teacher


def test_it_travels_by_pickle(toy_model):
    teacher = Teacher(toy_model())
    teacher.match_inputs(ImgDataPreprocessor(mean=[1.0] * 3, std=[2.0] * 3))
    other = pickle.loads(pickle.dumps(teacher))
    assert other.digest == teacher.digest
    batch = Batch(torch.randn(1, 3, 8, 8))
    values = [
        t.run(batch, {'backbone': Tap})['backbone'].value for t in (teacher, other)
    ]
    assert torch.equal(*values)


def test_the_digest_is_that_of_the_weights(toy_model, device):
    teacher = Teacher(toy_model(width=4))
    twin = copy.deepcopy(teacher.model)
    assert Teacher(twin).digest == Teacher(twin.to(device)).digest == teacher.digest
    assert len(teacher.digest) == 8
    assert int(teacher.digest, 16) >= 0
    twin.backbone.norm.running_mean[0] += 1e-6
    assert Teacher(twin).digest != teacher.digest
    assert repr(teacher) == f'ToyModel (module, weights {teacher.digest})'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_has_a_digest(dtype):
    digests = {Teacher(nn.Linear(2, 2).to(dtype)).digest for _ in range(2)}
    assert len(digests) == 2


def test_it_follows_moves_but_for_a_device_of_its_own(toy_model, device):
    free, bound = Teacher(toy_model()), Teacher(toy_model(), device='cpu')
    holder = nn.Linear(1, 1).to(device)
    for teacher in (free, bound):
        teacher.apply(lambda x: x.to(holder.weight))
        teacher.apply(lambda x: x.double() if x.is_floating_point() else x)
    weights = [teacher.model.head.weight for teacher in (free, bound)]
    assert [w.device.type for w in weights] == [device.type, 'cpu']
    assert [w.dtype for w in weights] == [torch.float64] * 2
    batch = Batch(torch.zeros(1, 3, 8, 8, dtype=torch.float64, device=device))
    value = bound.run(batch, {'backbone': Tap})['backbone'].value
    assert value.device.type == 'cpu'


def test_it_runs_without_gradients_and_no_further_than_needed(toy_model):
    teacher = Teacher(toy_model())
    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    ran = []
    teacher.model.head.register_forward_hook(lambda *_: ran.append(1))
    taps = teacher.run(Batch(inputs), {'neck': Tap}, {'neck': 1})
    assert not ran
    value = taps['neck'].value[0]
    assert not value.requires_grad
    assert not value.is_inference()  # those cannot be saved for the backward pass
    teacher.run(Batch(inputs), {'neck': Tap})
    assert ran == [1]


def test_it_leaves_the_students_samples_alone(toy_model):
    detection = pytest.importorskip('mmdet.structures')

    class Writer(toy_model):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            data_samples[0].set_metainfo(dict(img_shape=(1, 1)))
            data_samples[0].extra = 1
            return super().forward(inputs)

    sample = detection.DetDataSample(metainfo=dict(img_shape=(8, 8)))
    Teacher(Writer()).run(Batch(torch.zeros(1, 3, 8, 8), [sample]), {'neck': Tap})
    assert sample.img_shape == (8, 8)
    assert 'extra' not in sample


def test_synchronised_batchnorm_is_reverted(toy_model):
    model = toy_model(norm=nn.SyncBatchNorm)
    before = copy.deepcopy(model.state_dict())
    teacher = Teacher(model)
    assert type(teacher.model.backbone.norm).__name__ == '_BatchNormXd'
    after = teacher.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not teacher.model.backbone.norm.weight.requires_grad
    teacher.run(Batch(torch.zeros(1, 3, 8, 8)), {'neck': Tap})  # SyncBN raises here


def test_a_mask_may_be_infinite_and_a_weight_may_not():
    network = nn.Linear(2, 1)
    network.register_buffer('mask', torch.tensor([float('-inf')]))
    Teacher(network)
    network.weight.data[0] = float('inf')
    with pytest.raises(ValueError, match='weight of module holds NaN or infinity'):
        Teacher(network)
