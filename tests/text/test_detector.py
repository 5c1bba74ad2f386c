"""Encoders in a detector: Grounding DINO and GLIP end to end, small and random."""

import copy
from importlib.metadata import packages_distributions
from importlib.util import find_spec

import pytest
import torch
import transformers
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from tiny_text import PHRASES, THIN, seeded

import mmkd  # noqa: F401
from mmkd.config import load_config
from mmkd.text import MobileBertModel
from mmkd.text.check import check_text
from mmkd.text.detector import export_detector

pytest.importorskip('mmdet')
GROUNDING_DINO = 'mmdet::grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco.py'
GLIP = 'mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py'
IS_ONEDL = find_spec('mmdet') and 'onedl-mmdetection' in (
    packages_distributions().get('mmdet', ())
)
IS_FIVE = int(transformers.__version__.partition('.')[0]) >= 5
DETECTORS = [
    pytest.param(
        GROUNDING_DINO,
        id='Grounding DINO',
        marks=pytest.mark.skipif(
            bool(IS_ONEDL),
            reason="OneDL's own does not run: DINO's decoder yields 1024 numbers for a "
            'layer that takes 512',
        ),
    ),
    pytest.param(GLIP, id='GLIP'),
]
COPIED = dict(THIN, embedding_size=32, trigram_input=False)
TEXT = 'cat . dog . person .'


def small(name, bert, kind='mmkd.BertModel') -> Config:
    """A stock config of a detector, small, with a small BERT."""
    cfg = load_config(name)
    cfg.pop('model_path', None)
    model = cfg.model
    model.backbone.update(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 4])
    model.backbone.pop('init_cfg', None)
    model.neck.in_channels = [24, 48, 96]
    model.language_model.update(name=bert, type=kind)
    if name == GROUNDING_DINO:
        model.update(num_queries=20, test_cfg=dict(max_per_img=10))
        model.encoder.update(num_layers=1, num_cp=0)
        model.decoder.num_layers = 1
    else:
        model.bbox_head.update(lang_model_name=bert, num_dyhead_blocks=1)
        model.test_cfg.score_thr = 0.0
    return cfg


def build(cfg):
    with seeded(0), DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(cfg.model))
        model.init_weights()
    return model


def picture():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    shape = dict.fromkeys(
        ('img_shape', 'ori_shape', 'batch_input_shape', 'pad_shape'), (64, 64)
    )
    sample = DetDataSample(metainfo=dict(shape, scale_factor=(1.0, 1.0)))
    sample.text, sample.custom_entities = TEXT, True
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[5.0, 5.0, 40.0, 50.0]]), labels=torch.tensor([1])
    )
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 64, 64, generator=generator), [sample]


@torch.no_grad()
def predict(model):
    found = model.eval().predict(*picture())[0].pred_instances
    return found.scores, found.bboxes


@pytest.mark.parametrize('name', DETECTORS)
def test_predicts_and_trains(bert, name):
    model = build(small(name, bert))
    scores, boxes = predict(model)
    assert len(scores) >= 10
    assert boxes.isfinite().all()
    losses = model.train().loss(*picture())
    total = sum(
        sum(value) if isinstance(value, list) else value for value in losses.values()
    )
    total.backward()
    embedded = model.language_model.encoder.model.embeddings.word_embeddings.weight
    assert embedded.grad.abs().sum() > 0


@pytest.mark.skipif(IS_FIVE, reason="MMDetection's does not run with transformers 5")
@pytest.mark.parametrize('name', DETECTORS)
def test_predicts_what_mmdetections_does(bert, name):
    ours, theirs = (
        build(small(name, bert, kind)) for kind in ('mmkd.BertModel', 'BertModel')
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for found, expected in zip(predict(ours), predict(theirs)):
        torch.testing.assert_close(found, expected)


@pytest.fixture
def trained(bert, tmp_path):
    """Checkpoint of a run, and a detector of the teacher, config and weights."""
    detector = small(GROUNDING_DINO, bert)
    detector.dump(str(tmp_path / 'detector.py'))
    weights = build(detector).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'detector.pth')
    student = dict(type='mmkd.MobileBertModel', name=bert, structure=COPIED, **PHRASES)
    teacher = dict(
        config=str(tmp_path / 'detector.py'), checkpoint=str(tmp_path / 'detector.pth')
    )
    cfg = Config(
        dict(
            custom_imports=dict(imports='mmkd'),
            model=dict(
                type='mmkd.MobileBertTransfer', student=student, teacher=teacher
            ),
        )
    )
    with seeded(2):
        model = MODELS.build(cfg.model)
    contents = dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict())
    torch.save(contents, tmp_path / 'iter_1.pth')
    return cfg, tmp_path


def test_a_detector_with_the_new_encoder(trained):
    """Its text features are the student's, everything else is the detector's."""
    cfg, folder = trained
    weights, config = export_detector(
        folder / 'iter_1.pth', folder / 'detector.py', str(folder / 'detector.pth')
    )
    exported = Config.fromfile(config)
    assert 'mmkd' in exported.custom_imports.imports
    model = build(exported)
    state = torch.load(weights)['state_dict']
    model.load_state_dict(state, strict=True)
    assert isinstance(model.language_model, MobileBertModel)
    before = torch.load(folder / 'detector.pth')['state_dict']
    for key, value in before.items():
        if not key.startswith('language_model.'):
            assert torch.equal(state[key], value), key
    alone = MobileBertModel(cfg.model.student.name, COPIED, **PHRASES).eval()
    alone.load_state_dict(torch.load(folder / 'iter_1.pth')['state_dict'])
    with torch.no_grad():
        expected = alone([TEXT])['embedded']
        assert torch.equal(model.eval().language_model([TEXT])['embedded'], expected)
    if not IS_ONEDL:
        scores, boxes = predict(model)
        assert len(scores) == 10
        assert boxes.isfinite().all()


def test_only_the_encoder_of_a_run(trained):
    from mmkd.export import export_student

    cfg, folder = trained
    weights, config = export_student(folder / 'iter_1.pth')
    alone = MODELS.build(Config.fromfile(config).model)
    alone.load_state_dict(torch.load(weights)['state_dict'], strict=True)
    assert isinstance(alone, MobileBertModel)


def test_what_cannot_be_exported(trained, bert):
    _, folder = trained
    told = (folder / 'iter_1.pth', folder / 'detector.py')
    with pytest.raises(ValueError, match='must be named: --detector-checkpoint FILE'):
        export_detector(*told)
    weights = str(folder / 'detector.pth')
    export_detector(*told, weights)
    with pytest.raises(FileExistsError, match='or --overwrite'):
        export_detector(*told, weights)
    export_detector(*told, weights, overwrite=True)
    with pytest.raises(ValueError, match='out must be another file'):
        export_detector(*told, weights, out=folder / 'iter_1.pth')
    with pytest.raises(ValueError, match='holds no config of the run'):
        export_detector(
            folder / 'detector.pth', *told[1:], weights, out=folder / 'a.pth'
        )
    state = torch.load(weights)
    state['state_dict']['text_feat_map.weight'] = torch.zeros(8, 48)
    torch.save(state, folder / 'wide.pth')
    # GLIP has no such layer: its own encoder tells how wide it must be.
    places = 'language_model.language_backbone.body.model.embeddings'
    del state['state_dict']['text_feat_map.weight']
    state['state_dict'][f'{places}.position_embeddings.weight'] = torch.zeros(9, 768)
    torch.save(state, folder / 'glip.pth')
    with pytest.raises(ValueError, match='must yield 768 features, which the detector'):
        export_detector(*told, str(folder / 'glip.pth'), out=folder / 'b.pth')
    with pytest.raises(ValueError, match='must yield 48 features, which the detector'):
        export_detector(*told, str(folder / 'wide.pth'), out=folder / 'b.pth')


def test_how_near_it_is(trained, bert, tmp_path):
    cfg, folder = trained
    (tmp_path / 'texts.txt').write_text('a red cat . dog .\nbig person .\n' * 8)
    cfg.val_dataloader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='mmkd.pad_tokens'),
        dataset=dict(
            type='mmkd.TextDataset',
            name=bert,
            file=str(tmp_path / 'texts.txt'),
            cache_dir=str(tmp_path / 'tokens'),
        ),
    )
    found = check_text(cfg, str(folder / 'iter_1.pth'), batches=2)
    assert set(found) == {'embedded', 'text_feat_map', 'student', 'teacher'}
    for name in ('embedded', 'text_feat_map'):
        assert -1 <= found[name]['cosine'] < 1
        assert found[name]['relative_error'] > 0
    assert found['student']['parameters'] < found['teacher']['parameters']
    assert found['teacher']['seconds'] > 0
    cfg.model.student = dict(type='mmkd.BertModel', name=bert, **PHRASES)
    same = check_text(cfg, batches=2)
    assert same['text_feat_map']['cosine'] == pytest.approx(1)
    assert same['embedded']['relative_error'] == pytest.approx(0, abs=1e-6)


def test_nothing_is_asked_of_a_detector_without_texts(trained, bert):
    _, folder = trained
    (folder / 'plain.py').write_text("model = dict(type='GFL')")
    with pytest.raises(ValueError, match='GFL has none'):
        export_detector(
            folder / 'iter_1.pth',
            folder / 'plain.py',
            str(folder / 'detector.pth'),
            out=folder / 'c.pth',
        )
