"""Inputs for the teacher equal what its own preprocessor makes of the raw images."""

import copy
import itertools

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement, PixelData

from mmkd.batch import Batch
from mmkd.renormalize import Normalization, Renormalizer
from mmkd.taps import Tap
from mmkd.teacher import Teacher

# As in the stock configs: torchvision weights, caffe weights, YOLOX, no normalisation
# of channels but of the whole, RTMDet (BGR with ImageNet's statistics).
PREPROCESSORS = dict(
    imagenet=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    caffe=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    yolox=dict(pad_value=114.0),
    unit=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    rtmdet=dict(
        mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], pad_value=1.5
    ),
)
PAIRS = list(itertools.permutations(PREPROCESSORS, 2))


def raw_images(*sizes) -> list[torch.Tensor]:
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]


def renormalized(student, teacher, data) -> torch.Tensor:
    """What the teacher gets: the student's batch, converted."""
    renormalize = Renormalizer(Normalization.of(student), Normalization.of(teacher))
    data = student(copy.deepcopy(data), True)
    return renormalize(Batch(data['inputs'], data['data_samples']))


@pytest.mark.parametrize(('student', 'teacher'), PAIRS)
def test_equals_the_preprocessor_of_a_stock_detector(student, teacher, device):
    pytest.importorskip('mmdet')
    from mmdet.models import DetDataPreprocessor
    from mmdet.structures import DetDataSample

    student, teacher = (
        DetDataPreprocessor(**PREPROCESSORS[key], pad_size_divisor=32).to(device)
        for key in (student, teacher)
    )
    sizes = [(50, 70), (33, 41), (64, 20)]
    data = dict(
        inputs=raw_images(*sizes),
        data_samples=[DetDataSample(metainfo=dict(img_shape=hw)) for hw in sizes],
    )
    expected = teacher(copy.deepcopy(data), True)['inputs']
    actual = renormalized(student, teacher, data)
    assert actual.shape == (3, 3, 64, 96)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('padding', [dict(size=(48, 64)), dict(size_divisor=16)])
@pytest.mark.parametrize(('student', 'teacher'), PAIRS)
def test_equals_the_preprocessor_of_a_stock_segmentor(student, teacher, padding):
    pytest.importorskip('mmseg')
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    def build(key):
        options = dict(PREPROCESSORS[key])
        options['pad_val'] = options.pop('pad_value', 0)  # mmseg's own spelling
        return SegDataPreProcessor(**options, **padding)

    student, teacher = build(student), build(teacher)
    sizes = [(48, 51), (40, 64)]
    data = dict(inputs=raw_images(*sizes), data_samples=[])
    for size in sizes:
        sample = SegDataSample(metainfo=dict(img_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
        data['data_samples'].append(sample)
    expected = teacher(copy.deepcopy(data), True)['inputs']
    actual = renormalized(student, teacher, data)
    assert actual.shape == (2, 3, 48, 64)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_equals_the_preprocessor_of_mmengine():
    student = ImgDataPreprocessor(**PREPROCESSORS['imagenet'])
    teacher = ImgDataPreprocessor(**PREPROCESSORS['caffe'])
    data = dict(inputs=raw_images((8, 8), (8, 8)))
    expected = teacher(copy.deepcopy(data))['inputs']
    torch.testing.assert_close(
        renormalized(student, teacher, data), expected, rtol=0, atol=1e-4
    )


def test_the_usual_silent_error_would_be_noticed():
    # What a caffe-style teacher sees when it is given the student's inputs.
    student = ImgDataPreprocessor(**PREPROCESSORS['imagenet'])
    teacher = ImgDataPreprocessor(**PREPROCESSORS['caffe'])
    data = dict(inputs=raw_images((8, 8)))
    ours, theirs = (p(copy.deepcopy(data))['inputs'] for p in (student, teacher))
    assert (ours - theirs).abs().mean() > 10


def test_equal_normalisation_hands_the_inputs_on():
    a, b = (ImgDataPreprocessor(**PREPROCESSORS['imagenet']) for _ in range(2))
    renormalize = Renormalizer(Normalization.of(a), Normalization.of(b))
    inputs = torch.randn(1, 3, 4, 4)
    assert renormalize.is_identity
    assert renormalize(Batch(inputs)) is inputs
    anything = [dict(text='a list of dicts')]
    assert renormalize(Batch(anything)) is anything


def test_another_padding_alone_is_a_difference():
    black, grey = Normalization(pad_value=0.0), Normalization(pad_value=114.0)
    sample = BaseDataElement(metainfo=dict(img_shape=(1, 2)))
    inputs = torch.tensor([[[[5.0, 6.0], [0.0, 0.0]]]])
    actual = Renormalizer(black, grey)(Batch(inputs, [sample]))
    assert actual.tolist() == [[[[5.0, 6.0], [114.0, 114.0]]]]
    assert inputs[0, 0, 1].tolist() == [0, 0]  # the student's own are left alone


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept_and_computed_in_float32(dtype):
    pixels = torch.tensor([0.0, 127.0, 255.0])
    student = Normalization((0.0,), (255.0,))
    teacher = Normalization((100.0,), (50.0,))
    inputs = (pixels / 255).to(dtype).view(1, 1, 1, 3)
    actual = Renormalizer(student, teacher)(Batch(inputs))
    assert actual.dtype == dtype
    expected = ((inputs.float() * 255 - 100) / 50).to(dtype)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('inputs', [torch.zeros(2, 3), [torch.zeros(3, 4, 4)], None])
def test_other_inputs_cannot_be_converted(inputs):
    renormalize = Renormalizer(Normalization(), Normalization(std=(2.0,)))
    with pytest.raises(TypeError, match='needs inputs of shape .N, C, H, W.'):
        renormalize(Batch(inputs))


@pytest.mark.parametrize('preprocessor', [None, torch.nn.Identity()])
def test_no_preprocessor_is_no_normalisation(preprocessor):
    assert Normalization.of(preprocessor) == Normalization()


@pytest.mark.parametrize(
    'name', ['_channel_conversion', 'channel_conversion', 'to_rgb']
)
def test_every_library_has_its_name_for_the_channel_order(name):
    preprocessor = torch.nn.Identity()  # mmpretrain's are named to_rgb
    setattr(preprocessor, name, True)
    assert Normalization.of(preprocessor).flipped


class Given(Tap):
    keeps_arguments = ('forward',)


def test_a_teacher_is_given_its_own_inputs(toy_model):
    student = ImgDataPreprocessor(**PREPROCESSORS['imagenet'])
    own = ImgDataPreprocessor(**PREPROCESSORS['caffe'])
    teacher = Teacher(toy_model(data_preprocessor=own))
    data = dict(inputs=raw_images((16, 16), (16, 16)))
    batch = Batch(student(copy.deepcopy(data))['inputs'])
    expected = own(copy.deepcopy(data))['inputs']
    plain = teacher.run(batch, {'backbone': Given})['backbone'].calls['forward'][0]
    assert plain.args[0] is batch.inputs
    teacher.match_inputs(student)
    (call,) = teacher.run(batch, {'backbone': Given})['backbone'].calls['forward']
    torch.testing.assert_close(call.args[0], expected, rtol=0, atol=1e-4)
