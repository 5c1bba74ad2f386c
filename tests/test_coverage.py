"""The sweep over stock configs: what it tries and finds, and the page it writes."""

import os
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from mmkd.coverage import page, sweep
from mmkd.coverage.families import (
    LIBRARIES,
    OUT_OF_SCOPE,
    Family,
    families,
    folders,
    types_of,
)
from mmkd.coverage.reduce import narrower, small_inputs
from mmkd.coverage.samples import detection_batch, segmentation_batch
from mmkd.coverage.terms import terms_for
from mmkd.coverage.trial import Trial
from mmkd.experiments.results import read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'docs' / 'results' / 'coverage.jsonl'
#: Those that other distillation projects have open bug reports about, and one with
#: several decode heads.
TRIED = (
    'mmdet::detr/detr_r18_8xb2-500e_coco.py',
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmdet::solo/decoupled-solo-light_r50_fpn_3x_coco.py',
    'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
    'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
)


def family_of(config: str) -> Family:
    library, _, path = config.partition('::')
    return Family(library, path.partition('/')[0], config, ('Model',))


def pytest_generate_tests(metafunc):
    if 'swept' in metafunc.fixturenames:
        # Reading every shipped config takes a minute.
        wanted = 'sweep' in metafunc.config.getoption('markexpr').replace(
            'not sweep', ''
        )
        found = [f for lib in LIBRARIES for f in families(lib)] if wanted else []
        metafunc.parametrize('swept', found, ids=lambda family: family.config)


@pytest.mark.parametrize('config', TRIED)
def test_a_family_is_distilled(config):
    result = Trial(family_of(config)).run()
    assert result['stock'] == page.TRAINS, result['stock']
    assert result['trunk'] == page.WORKS
    assert page.failures([result]) == []


@pytest.mark.sweep
def test_every_family_is_distilled(swept):
    result = Trial(swept).run()
    if result['stock'] != page.TRAINS:
        pytest.skip(page.last_line(result['stock']))
    assert page.failures([result]) == []


def test_the_documented_sweep_is_of_the_shipped_configs_and_has_no_failure():
    results = page.latest(read_results(RESULTS))
    assert page.failures(results) == []
    for library, least in zip(LIBRARIES, (90, 45)):
        tried = {r['family'] for r in results if r['family'].startswith(f'{library}/')}
        shipped = {f'{library}/{name}' for name in folders(library)}
        assert tried == shipped - OUT_OF_SCOPE.keys()
        own = [r for r in results if r['family'] in tried]
        assert len({r['family'] for r in own if r['stock'] == page.TRAINS}) >= least


def test_the_page_is_that_of_the_results(tmp_path):
    page.write_page(tmp_path / 'page.md', read_results(RESULTS))
    written = (tmp_path / 'page.md').read_text()
    assert written == (ROOT / 'docs' / 'coverage.md').read_text()


def test_a_folder_gives_one_config_for_every_detector_with_its_heads():
    found = families('mmdet', ['mmdet/solo'])
    assert [f.model for f in found] == [
        ('SOLO', 'DecoupledSOLOLightHead'),
        ('SOLO', 'SOLOHead'),
        ('SOLO', 'DecoupledSOLOHead'),
    ]
    assert all('r50' in f.config for f in found)


def test_a_model_is_told_by_its_heads():
    roi = dict(type='R', bbox_head=[dict(type='A'), dict(type='A')])
    model = dict(type='M', rpn_head=dict(type='P'), roi_head=roi)
    assert types_of(model) == ('M', 'P', 'R', 'A')


def test_a_narrower_config_follows_the_widths_of_the_backbone():
    cfg = small_inputs('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 64)
    small = narrower(cfg)
    assert small.model.backbone.depth == 18
    assert small.model.neck.in_channels == [64, 128, 256, 512]
    assert small.model.neck.out_channels == cfg.model.neck.out_channels
    assert cfg.model.backbone.depth == 50
    assert cfg.model.backbone.init_cfg is None
    assert narrower(small) is None


def test_boxes_surround_their_masks_and_labels_are_known():
    loading = dict(type='LoadAnnotations', with_mask=True)
    model = dict(type='M', bbox_head=dict(num_classes=3))
    cfg = ConfigDict(model=model, train_dataloader=dict(pipeline=[loading]))
    batch = detection_batch(cfg, 96)
    for image, sample in zip(batch['inputs'], batch['data_samples']):
        found = sample.gt_instances
        assert found.masks.masks.shape[1:] == image.shape[1:]
        for box, mask in zip(found.bboxes, found.masks.masks):
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            assert box.tolist() == [
                columns[0],
                rows[0],
                columns[-1] + 1,
                rows[-1] + 1,
            ]
        assert found.labels.max() < 3


def test_label_maps_are_of_the_classes():
    model = dict(decode_head=dict(num_classes=4))
    cfg = dict(model=model, data_preprocessor=dict(mean=[0] * 6))
    batch = segmentation_batch(cfg, 64)
    assert batch['inputs'][0].shape == (6, 64, 64)
    for sample in batch['data_samples']:
        assert set(sample.gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 3, 255}


def test_losses_are_tried_where_the_config_has_heads():
    model = dict(rpn_head={'type': 'P'}, roi_head=dict(bbox_head={'type': 'B'}))
    assert [term.label for term in terms_for(model)] == [
        'logits: WeightedSoftCrossEntropy at rpn_head',
        'boxes: BoundedRegression at rpn_head',
        'logits: WeightedSoftCrossEntropy at roi_head.bbox_head',
        'boxes: BoundedRegression at roi_head.bbox_head',
    ]


def _dies(family):
    if family.folder == 'dies':
        os._exit(9)
    if family.folder == 'hangs':
        while True:
            pass
    return dict(config=family.config, stock=page.TRAINS)


def test_a_trial_that_dies_or_hangs_is_a_result(monkeypatch):
    monkeypatch.setattr(sweep, 'quietly', _dies)
    tried = [Family('mmdet', name, name, ()) for name in ('dies', 'hangs', 'fine')]
    found = {r['config']: r['stock'] for r in sweep.sweep(tried, 2, 5)}
    assert found['dies'] == 'the process died with exit code 9'
    assert found['hangs'] == 'the process took longer than 5 s'
    assert found['fine'] == page.TRAINS
