"""Metrics of generated pictures, against other implementations and formulas."""

import copy
import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from gan_toy import batch, pix2pix
from metric_ranks import COUNT, FEATURES, MEAN, METRIC, STD, evaluated, pictures
from mmengine.registry import METRICS, MODELS
from skimage.metrics import structural_similarity
from two_ranks import run_two_ranks

import mmkd  # noqa: F401

WEIGHTS = Path(torch.hub.get_dir()) / 'checkpoints' / 'alexnet-owt-7be5be79.pth'


def metric_of(**told):
    return METRICS.build(dict(dict(type='mmkd.PictureMetrics'), **told))


def of_one(sample, **told):
    return evaluated([sample], 1, metric_of(**told))


def unit(x):
    return (x.double().numpy() + 1) / 2


def vectors(samples, name):
    """Features of pictures, one by one, as float64."""
    network = MODELS.build(FEATURES['model'])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    found = []
    for sample in samples:
        x = ((sample[name] + 1) * 127.5 - mean) / std
        with torch.no_grad():
            found.append(network(x[None])[1][0].double().mean((1, 2)).numpy())
    return np.stack(found)


@pytest.mark.parametrize('index', range(3))
def test_psnr_and_ssim_of_a_picture(index):
    sample = pictures(3)[index]
    x, y = unit(sample['generated']), unit(sample['target'])
    found = of_one(sample)
    assert list(found) == ['pictures/psnr', 'pictures/ssim']
    psnr = 10 * math.log10(1 / ((x - y) ** 2).mean())
    assert 10 < psnr < 25
    assert found['pictures/psnr'] == pytest.approx(psnr, abs=1e-5)
    ssim = structural_similarity(
        x,
        y,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
    )
    assert 0.2 < ssim < 0.95
    assert found['pictures/ssim'] == pytest.approx(ssim, abs=1e-6)


def test_numbers_of_pictures_are_averaged():
    samples = pictures(3)
    single = [of_one(sample) for sample in samples]
    found = evaluated(samples, 3, metric_of())
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in single]))


def test_fid_is_the_distance_of_two_gaussians():
    samples = pictures(12)
    x, y = (vectors(samples, name) for name in ('generated', 'target'))
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b).real
    fid = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    found = evaluated(samples, 12, metric_of(metric='fid', features=FEATURES), 5)
    assert fid > 1e-3
    assert found == {'pictures/proxy_fid': pytest.approx(fid, rel=1e-4)}


def test_kid_is_the_unbiased_discrepancy_of_all_pictures():
    samples = pictures(6)
    x, y = (vectors(samples, name) for name in ('generated', 'target'))

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    kid = -2 * np.mean([kernel(a, b) for a, b in itertools.product(x, y)])
    for kind in (x, y):
        kid += np.mean([kernel(a, b) for a, b in itertools.permutations(kind, 2)])
    for size in (None, 6):
        told = dict(metric='kid', features=FEATURES, kid_subset_size=size)
        found = evaluated(samples, 6, metric_of(**told))
        assert found == {'pictures/proxy_kid': pytest.approx(kid, rel=1e-4, abs=1e-6)}


def test_subsets_of_kid_are_those_of_a_seed_of_its_own():
    samples = pictures()
    told = dict(metric=['kid'], features=FEATURES, kid_subset_size=3)
    torch.manual_seed(1)
    first = evaluated(samples, COUNT, metric_of(**told))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    assert evaluated(samples, COUNT, metric_of(**told)) == first
    whole = evaluated(samples, COUNT, metric_of(**{**told, 'kid_subset_size': None}))
    assert first != whole  # an estimate of it
    first, whole = first['pictures/proxy_kid'], whole['pictures/proxy_kid']
    assert abs(first - whole) < abs(whole)


def test_equal_pictures_are_at_no_distance():
    samples = [{**sample, 'generated': sample['target']} for sample in pictures()]
    found = evaluated(samples, COUNT, METRIC)
    assert found['pictures/psnr'] == math.inf
    assert found['pictures/ssim'] == pytest.approx(1, abs=1e-12)
    assert found['pictures/proxy_fid'] == pytest.approx(0, abs=1e-6)
    others = evaluated(pictures(), COUNT, METRIC)
    assert others['pictures/proxy_fid'] > 1e-2


def test_neither_batches_nor_order_matter():
    samples = pictures()
    told = {**METRIC, 'kid_subset_size': None}
    expected = evaluated(samples, COUNT, told, COUNT)
    assert len(expected) == 4
    for others, size in ((samples, 4), (samples[::-1], 1)):
        found = evaluated(others, COUNT, told, size)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    run_two_ranks(Path(__file__).parent / 'metric_ranks.py', tmp_path)
    expected = evaluated(pictures(), COUNT)
    for rank in range(2):
        found = torch.load(tmp_path / f'rank{rank}.pth', weights_only=False)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype, device):
    samples = [
        {**sample, 'generated': sample['generated'].to(device, dtype)}
        for sample in pictures()
    ]
    for sample in samples:
        sample['target'] = sample['target'].to(device)
    rounded = [
        dict(generated=s['generated'].float().cpu(), target=s['target'].cpu())
        for s in samples
    ]
    found = evaluated(samples, COUNT)
    assert found == pytest.approx(evaluated(rounded, COUNT), rel=1e-3, abs=1e-4)


def test_what_a_model_predicts(tmp_path):
    model = MODELS.build(pix2pix()).eval()
    metric = metric_of(metric=['fid', 'psnr'], features=FEATURES)
    samples = [
        sample
        for indices in ([0, 1], [2, 3])
        for sample in model.val_step(batch(indices))
    ]
    found = evaluated(samples, 4, metric)
    assert list(found) == ['pictures/proxy_fid', 'pictures/psnr']
    x, y = (
        torch.stack([sample[name] for sample in samples]).double()
        for name in ('generated', 'target')
    )
    psnr = -10 * (((x - y) / 2) ** 2).mean((1, 2, 3)).log10().mean()
    assert found['pictures/psnr'] == pytest.approx(float(psnr), abs=1e-5)
    assert metric.results == []


def test_kinds_of_pictures_may_differ_in_size():
    samples = [
        dict(generated=one['generated'], target=other['target'])
        for one, other in zip(pictures(), pictures(size=(24, 12), seed=1))
    ]
    samples[0]['target'] = samples[0]['target'][..., :8]
    told = dict(metric=['fid'], features={**FEATURES, 'size': (10, 10)})
    found = evaluated(samples, COUNT, metric_of(**told))
    assert found['pictures/proxy_fid'] > 0


def test_grey_pictures_are_those_of_three_equal_channels():
    grey = [{k: v[:1] for k, v in sample.items()} for sample in pictures()]
    three = [{k: v.expand(3, -1, -1) for k, v in s.items()} for s in grey]
    expected = evaluated(three, COUNT)
    assert evaluated(grey, COUNT) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_features_of_a_stock_backbone(tmp_path):
    backbone = dict(type='mmdet.MobileNetV2', out_indices=(1, 4), widen_factor=0.25)
    torch.manual_seed(3)
    network = MODELS.build(backbone)
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 0.3)
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'backbone.pth')
    told = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'))
    cfg = dict(model={**backbone, 'init_cfg': told}, mean=MEAN, std=STD)
    metric = metric_of(metric=['kid'], features=cfg, prefix='val')
    samples = pictures(4, size=(32, 32))
    metric.process({}, samples)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    network.eval()
    with torch.no_grad():
        for sample, result in zip(samples, metric.results):
            x = ((sample['target'] + 1) * 127.5 - mean) / std
            expected = network(x[None])[-1].mean((2, 3))[0]
            torch.testing.assert_close(result['target'], expected)
    assert list(metric.evaluate(4)) == ['val/proxy_kid']
    assert 'backbone.pth' in cfg['model']['init_cfg']['checkpoint']  # not changed


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f'{WEIGHTS} is not there')
def test_lpips_is_that_of_torchmetrics():
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    samples = pictures(2, size=(64, 64))
    x, y = (torch.stack([s[n] for s in samples]) for n in ('generated', 'target'))
    expected = float(learned_perceptual_image_patch_similarity(x, y))
    found = evaluated(samples, 2, metric_of(metric='lpips'))
    assert found == {'pictures/lpips': pytest.approx(expected, rel=1e-4)}


def test_weights_that_cannot_be_downloaded_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')  # where nobody listens
    with pytest.raises(OSError, match=r'(?s)AlexNet.*leave lpips out of metric'):
        metric_of(metric='lpips')


@pytest.mark.skipif(
    importlib.util.find_spec('torch_fidelity') is not None,
    reason='torch-fidelity is installed',
)
def test_inception_needs_a_package():
    with pytest.raises(ImportError, match=r'pip install torch-fidelity, or.*features='):
        metric_of(metric='fid')


def test_the_extra_is_named_where_it_is_not_installed(monkeypatch):
    for name in ('torchmetrics', 'torchmetrics.functional'):
        monkeypatch.setitem(sys.modules, name, None)  # what `import` finds is nothing
    for kind in (METRIC, dict(type='mmkd.GeneratedSegmentation', segmentor='x.pth')):
        with pytest.raises(ImportError, match=r"pip install 'mmkd\[gan\]'"):
            METRICS.build(kind)


@pytest.mark.parametrize(
    ('told', 'error', 'sentence'),
    [
        (dict(metric=['is']), ValueError, r'psnr, ssim, lpips, fid, kid but are .*is'),
        (dict(metric=[]), ValueError, 'must be some of psnr'),
        (dict(features=FEATURES), ValueError, 'features are for fid and kid'),
        (dict(kid_subset_size=5), ValueError, 'is for kid'),
        (dict(metric='kid', features=FEATURES, kid_subset_size=1), ValueError,
         'must be 2 at least, but is 1'),
        (dict(metric='fid', features='resnet'), TypeError, r'or dict\(.*is a str'),
        (dict(metric='fid', features=dict(type='ToyFeatures')), ValueError,
         r"must be None or dict\(.*but has \['type'\]"),
        (dict(metric='fid', features={**FEATURES, 'std': [1]}), ValueError,
         r'features.std must be three numbers.*\[1\]'),
        (dict(metric='fid', features={**FEATURES, 'size': 299}), ValueError,
         'features.size must be a height and a width in pixels but is 299'),
        (dict(metric='fid', features={**FEATURES, 'model': 'x'}), TypeError,
         'features.model must be a config or a network'),
    ],
)  # fmt: skip
def test_mistakes_in_a_config_are_sentences(told, error, sentence):
    with pytest.raises(error, match=sentence):
        metric_of(**copy.deepcopy(told))


def test_mistakes_in_samples_are_sentences():
    (sample,) = pictures(1)
    cut = {**sample, 'target': sample['target'][..., :-1]}
    lone = {k: v for k, v in sample.items() if k != 'target'}
    small = {k: v[..., :10] for k, v in sample.items()}
    raw = {k: v.byte() for k, v in sample.items()}
    for wrong, sentence in (
        (cut, r'psnr and ssim compare pictures of one shape.*20\).*19\)'),
        (lone, r"must have the tensor 'target', but one has \['generated', 'source'\]"),
        (small, 'ssim needs pictures of 11 by 11 pixels at least but one is 16 by 10'),
        (raw, r'from -1 to 1, but one is \(3, 16, 20\) of torch.uint8'),
    ):
        with pytest.raises(ValueError, match=sentence):
            of_one(wrong)


def test_too_few_pictures_for_a_distance_of_kinds():
    (sample,) = pictures(1)
    with pytest.raises(ValueError, match='fid needs 2 pictures at least but there are'):
        of_one(sample, metric='fid', features=FEATURES)
    with pytest.raises(ValueError, match='kid needs 2 pictures at least'):
        of_one(sample, metric='kid', features=FEATURES)
    told = dict(metric='kid', features=FEATURES, kid_subset_size=9)
    with pytest.raises(ValueError, match=r'kid needs 9 pictures.*are 7: have more or'):
        evaluated(pictures(), COUNT, metric_of(**told))


def test_features_of_targets_are_taken_once(monkeypatch):
    metric, seen = metric_of(metric='fid', features=FEATURES), []
    network = metric.features.network
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    data = pictures(6)
    first = evaluated(data, 6, metric, 3)
    assert sum(seen) == 12
    assert evaluated(data, 6, metric, 3) == first
    assert sum(seen) == 18
    other = [dict(sample, generated=sample['target']) for sample in data]
    assert evaluated(other, 6, metric, 3) == evaluated(
        other, 6, metric_of(metric='fid', features=FEATURES), 3
    )
    monkeypatch.setattr('mmkd.gan.metrics._REMEMBERED', 4)
    assert evaluated(data, 6, metric, 3) == first
