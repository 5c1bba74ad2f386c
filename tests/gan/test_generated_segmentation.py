"""What a segmentor sees in generated pictures, as MMSegmentation counts it."""

import copy

import pytest
import torch
from metric_ranks import evaluated
from mmengine.registry import METRICS, DefaultScope
from tiny_models import build, tiny_pspnet

import mmkd  # noqa: F401

CLASSES = ('a', 'b', 'c', 'd')


@pytest.fixture(scope='module')
def model():
    """A segmentor that sees several classes, though it has learned nothing."""
    network = build(tiny_pspnet().model, 'mmseg')
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return network.eval()


@pytest.fixture(scope='module')
def entry(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('segmentor') / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return dict(config=tiny_pspnet(), checkpoint=str(path))


def metric_of(entry, **told):
    cfg = dict(type='mmkd.GeneratedSegmentation', segmentor=copy.deepcopy(entry))
    return METRICS.build({**cfg, **told})


def samples(count=4, size=(64, 48)):
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(count):
        small = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
        generated = torch.nn.functional.interpolate(small, size)[0]
        labels = torch.randint(0, 4, size, generator=generator)
        labels[:5] = 255
        found.append(dict(generated=generated, labels=labels))
    return found


def seen_by(model, sample, size=None):
    """What MMSegmentation's own function makes of the picture as read from a file."""
    import cv2
    from mmseg.apis import inference_model

    x = ((sample['generated'] + 1) * 127.5).round().byte()
    array = x.flip(0).permute(1, 2, 0).contiguous().numpy()
    if size is not None:
        array = cv2.resize(array, size[::-1], interpolation=cv2.INTER_LINEAR)
    model.cfg = copy.deepcopy(tiny_pspnet())
    model.cfg.test_pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='PackSegInputs'),
    ]
    with DefaultScope.overwrite_default_scope('mmseg'):
        return inference_model(model, array).pred_sem_seg.data


def as_mmseg(pairs):
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    for seen, truth in pairs:
        told = dict(pred_sem_seg=dict(data=seen), gt_sem_seg=dict(data=truth[None]))
        metric.process({}, [told])
    return {f'pictures/{k}': v for k, v in metric.evaluate(len(pairs)).items()}


def test_numbers_are_those_of_mmsegmentation(model, entry):
    given = samples()
    maps = [seen_by(model, sample) for sample in given]
    assert len(torch.stack(maps).unique()) > 2
    expected = as_mmseg([(m, s['labels']) for m, s in zip(maps, given)])
    assert set(expected) == {'pictures/aAcc', 'pictures/mIoU', 'pictures/mAcc'}
    found = evaluated(given, 4, metric_of(entry))
    assert found == pytest.approx(expected, abs=0.011)
    assert 5 < found['pictures/mIoU'] < 50
    again = evaluated(given[::-1], 4, metric_of(entry), batch_size=4)
    assert again == found


def test_labels_that_are_seen_are_all_right_and_other_classes_do_not_count(
    model, entry
):
    given = samples(2)
    for sample in given:
        sample['labels'] = seen_by(model, sample).to(torch.uint8)  # (1, H, W)
        sample['labels'][0, :3, :7] = 255
    given[0]['generated'] = given[0]['generated'].bfloat16().float()
    given[0]['labels'] = seen_by(model, given[0])
    given[0]['generated'] = given[0]['generated'].bfloat16()
    found = evaluated(given, 2, metric_of(entry))
    assert found == {f'pictures/{name}': 100 for name in ('aAcc', 'mIoU', 'mAcc')}


def test_pictures_are_resized_for_the_segmentor_and_what_it_sees_for_labels(
    model, entry
):
    given = samples(2)
    doubled = [seen_by(model, sample, (128, 96)) for sample in given]
    maps = [m[:, ::2, ::2] for m in doubled]
    expected = as_mmseg([(m, s['labels']) for m, s in zip(maps, given)])
    found = evaluated(given, 2, metric_of(entry, size=(128, 96)))
    # OpenCV interpolates with whole numbers.
    assert found == pytest.approx(expected, abs=1)
    assert found != evaluated(given, 2, metric_of(entry))


def test_mistakes_are_sentences(entry):
    with pytest.raises(ValueError, match='size must be a height and a width in pixels'):
        metric_of(entry, size=64)
    generator = dict(type='mmkd.ResnetGenerator', ngf=2, num_blocks=1)
    other = dict(config=dict(model=generator), checkpoint=None, allow_random=True)
    with pytest.raises(ValueError, match='MMSegmentation that has num_classes but'):
        metric_of(other)
    metric = metric_of(entry)
    (sample,) = samples(1)
    for labels, sentence in (
        (sample['labels'].float(), r'integer type but are \(64, 48\) of torch.float32'),
        (sample['labels'][None, None], r'\(H, W\).*are \(1, 1, 64, 48\)'),
        (sample['labels'] + 1, 'from 0 to 3, the classes of the segmentor, or 255'),
        (None, "must have the tensor 'labels', but one has .*generated"),
    ):
        with pytest.raises(ValueError, match=sentence):
            metric.process({}, [{**sample, 'labels': labels}])
