"""Teachers of text encoders: of folders, detectors, runs; and none."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from test_transfer import COPIED, PLAIN, TEXTS, make, step, total
from test_transfer_training import config, run, texts  # noqa: F401
from tiny_text import PHRASES, THIN, make_bert, seeded

from mmkd.text import BertModel, MobileBertModel
from mmkd.text.text_teacher import build_text_teacher
from mmkd.training import train_config

IB = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intra_bottleneck_size=64,
    intermediate_size=64,
    num_feedforward_networks=1,
    key_query_shared_bottleneck=False,
    embedding_size=16,
    normalization_type='layer_norm',
    hidden_act='gelu',
)


def tuned(bert, folder, pooler=False) -> tuple[BertModel, str]:
    """A detector's encoder, and the file of the detector."""
    model = BertModel(bert, **PHRASES, add_pooling_layer=pooler)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    state = {f'language_model.{k}': v for k, v in model.state_dict().items()}
    path = folder / 'detector.pth'
    torch.save(dict(state_dict={**state, 'backbone.weight': torch.ones(1)}), path)
    return model, str(path)


def assert_same(model, expected):
    found = model.state_dict()
    for key, value in expected.state_dict().items():
        assert torch.equal(found[key], value), key


def test_a_detectors_weights_without_its_config(bert, tmp_path):
    model, path = tuned(bert, tmp_path)
    teacher = build_text_teacher(dict(name=bert, checkpoint=path))
    assert_same(teacher.model.encoder, model.encoder)
    assert teacher.source == path
    bare = tmp_path / 'encoder.pth'
    torch.save(model.state_dict(), bare)
    teacher = build_text_teacher(dict(name=Path(bert), checkpoint=str(bare)))
    assert_same(teacher.model.encoder, model.encoder)
    with pytest.raises(FileNotFoundError, match=r"'/nope\.pth' does not exist"):
        build_text_teacher(dict(name=bert, checkpoint='/nope.pth'))


@pytest.mark.parametrize('has_pooler', [False, True])
@pytest.mark.parametrize('says_pooler', [False, True])
def test_a_pooler_is_no_matter(has_pooler, says_pooler, bert, tmp_path):
    """Configs and weights of one detector disagree about what nothing reads."""
    model, path = tuned(bert, tmp_path, has_pooler)
    told = dict(PHRASES, add_pooling_layer=says_pooler)
    language_model = dict(type='BertModel', name=bert, **told)
    cfg = dict(model=dict(type='GroundingDINO', language_model=language_model))
    teacher = build_text_teacher(dict(config=cfg, checkpoint=path))
    assert_same(teacher.model.encoder, model.encoder)


def test_the_pooler_of_a_folder_is_copied(bert, tmp_path):
    model = make(bert, told=dict(PHRASES, add_pooling_layer=True))
    assert model.transfer.copied == ['embeddings', 'pooler']
    assert_same(
        model.encoder.model.pooler, model.transfer.teacher.model.encoder.model.pooler
    )
    without = str(make_bert(tmp_path / 'lm', 'BertForMaskedLM'))  # it has none
    model = make(without, told=dict(PHRASES, add_pooling_layer=True))
    assert model.transfer.copied == ['embeddings']


def test_a_mobilebert_teaches(tmp_path):
    """With its own head, and as many features as an IB-BERT."""
    sizes = {k: v for k, v in THIN.items() if k != 'max_position_embeddings'}
    folder = str(make_bert(tmp_path / 'mobile', 'MobileBertForMaskedLM', **sizes))
    model = make(folder, THIN, PLAIN, schedule='auxiliary')
    assert model.transfer.copied == ['embeddings', 'head']
    own = MobileBertModel(folder, **PLAIN).encoder
    assert_same(model.transfer.teacher.model.encoder, own)
    assert math.isfinite(total(step(model)).item())


def test_the_head_of_a_detectors_folder(tmp_path):
    """BERT's own head is the nearest one to a fine-tuned encoder's."""
    folder = str(make_bert(tmp_path / 'lm', 'BertForMaskedLM'))
    _, path = tuned(folder, tmp_path)
    teacher = dict(name=folder, checkpoint=path)
    model = make(folder, teacher=teacher, schedule='joint', transfer_iters=0)
    assert model.transfer.copied == ['embeddings', 'head']
    head = build_text_teacher(folder).model.head
    assert_same(model.transfer.teacher.model.head, head)
    assert build_text_teacher(teacher, with_head=False).model.head is None


def test_a_head_that_is_only_promised(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / 'bert'))
    contents = json.loads((folder / 'config.json').read_text())
    contents['architectures'] = ['BertForMaskedLM']
    (folder / 'config.json').write_text(json.dumps(contents))
    assert build_text_teacher(str(folder)).model.head is None
    with pytest.raises(ValueError, match='soft_targets must be 0, since the teacher'):
        make(str(folder), schedule='auxiliary')


def test_texts_are_as_good_as_tokens(bert):
    model = make(bert)
    losses = [
        {k: v.item() for k, v in model(given, mode='loss').items()}
        for given in (TEXTS, model.tokenize(TEXTS))
    ]
    assert losses[0] == losses[1]
    found = model.val_step(dict(captions=TEXTS))
    assert found == model.val_step(dict(captions=model.tokenize(TEXTS)))


def test_ib_bert_is_trained_and_teaches(bert, texts, tmp_path):  # noqa: F811
    """Words alone train it; its run then teaches, with the head that it trained."""
    told = dict(type='mmkd.MobileBertModel', name=bert, structure=IB, **PLAIN)
    cfg = config(bert, texts, tmp_path / 'teacher', iterations=30)
    cfg.model = dict(type='mmkd.MobileBertTransfer', student=told)
    runner = run(cfg)
    scalars = runner.message_hub.log_scalars
    losses, _ = scalars['train/loss_masked_lm'].data
    assert losses[-5:].mean() < losses[:5].mean()
    assert 0 <= scalars['val/transfer/masked_accuracy'].current() <= 1
    assert scalars['val/transfer/masked_lm'].current() > 0
    checkpoint = tmp_path / 'teacher' / 'iter_30.pth'
    teacher = dict(
        config=dict(model=cfg.model.to_dict()), checkpoint=str(checkpoint), trust=True
    )
    model = make(bert, THIN, PLAIN, teacher=teacher, schedule='auxiliary')
    assert_same(model.transfer.teacher.model.encoder, runner.model.encoder)
    assert_same(model.transfer.teacher.model.head, runner.model.transfer.head)
    assert model.transfer.copied == ['embeddings', 'head']
    assert math.isfinite(total(step(model)).item())


def test_a_run_of_words_is_resumed_exactly(bert, texts, tmp_path):  # noqa: F811
    told = dict(
        type='mmkd.MobileBertModel',
        name=bert,
        structure=dict(COPIED, hidden_dropout_prob=0.2),
        **PHRASES,
    )
    states = []
    for name in ('straight', 'again'):
        cfg = config(bert, texts, tmp_path / name, iterations=8)
        cfg.model = dict(type='mmkd.MobileBertTransfer', student=told)
        cfg.default_hooks.checkpoint.update(interval=4, max_keep_ckpts=-1)
        if name == 'again':
            cfg.resume = True
            cfg.load_from = str(tmp_path / 'straight' / 'iter_4.pth')
        states.append(run(cfg).model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key


def test_it_cannot_be_compared_with_nothing(bert):
    with seeded(0):
        student = dict(type='mmkd.MobileBertModel', name=bert, structure=THIN, **PLAIN)
        model = MODELS.build(dict(type='mmkd.MobileBertTransfer', student=student))
    assert model.transfer.copied == []
    from mmengine.config import Config

    from mmkd.text.check import check_text

    cfg = Config(dict(model=dict(type='mmkd.MobileBertTransfer', student=student)))
    with pytest.raises(ValueError, match='must have a teacher, which the student is'):
        check_text(cfg)


def test_a_check_names_the_students_file(bert, tmp_path):
    from mmkd.text.check import check_text

    path = (
        Path(__file__).parents[2] / 'configs/mobilebert/mobilebert_minilm_wikitext2.py'
    )
    cfg = train_config(str(path))
    cfg.model = dict(
        type='mmkd.MobileBertTransfer',
        student=dict(type='mmkd.MobileBertModel', name=bert, structure=THIN, **PLAIN),
        teacher=bert,
    )
    with pytest.raises(FileNotFoundError, match="the student's checkpoint '/no.pth'"):
        check_text(cfg, '/no.pth')
