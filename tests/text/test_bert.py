"""mmkd.BertModel: against transformers, MMDetection's, and phrases by themselves."""

from pathlib import Path

import pytest
import torch
import transformers
from mmengine.registry import MODELS, DefaultScope
from tiny_text import PHRASES, make_bert, seeded

import mmkd  # noqa: F401
from mmkd.text import BertModel

IS_FIVE = int(transformers.__version__.partition('.')[0]) >= 5
TEXTS = ['a red cat . dog . big person .', 'zebra .']


def stock(**kwargs):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type='BertModel', **kwargs)).eval()


@pytest.mark.parametrize('pad_to_max', [True, False])
@pytest.mark.parametrize('layers', [1, 2])
def test_equals_transformers(bert, pad_to_max, layers):
    model = BertModel(
        bert, max_tokens=16, pad_to_max=pad_to_max, num_layers_of_embedded=layers
    ).eval()
    reference = transformers.BertModel.from_pretrained(bert).eval()
    tokens = model.tokenize(TEXTS)
    assert tokens['input_ids'].shape[1] == (16 if pad_to_max else 11)
    with torch.no_grad():
        features = model(TEXTS)
        expected = reference(**tokens, output_hidden_states=True).hidden_states
    valid = tokens['attention_mask'].bool()
    torch.testing.assert_close(features['hidden'][valid], expected[-1][valid])
    mean = torch.stack(expected[-layers:]).mean(0) / layers
    torch.testing.assert_close(features['embedded'][valid], mean[valid])
    assert (features['embedded'][~valid] == 0).all()
    assert set(features) == {'embedded', 'masks', 'hidden'}
    assert torch.equal(features['masks'], tokens['attention_mask'])


def test_one_text(bert):
    model = BertModel(bert, **PHRASES).eval()
    with torch.no_grad():
        found = model('a red cat .')['embedded']
        assert torch.equal(found, model(['a red cat .'])['embedded'])


def test_a_phrase_is_as_it_is_alone(bert):
    model = BertModel(bert, **PHRASES).eval()
    with torch.no_grad():
        together = model(TEXTS)
        for start, phrase in ((1, 'a red cat .'), (5, 'dog .'), (7, 'big person .')):
            alone = model([phrase])['embedded'][0, 1:-1]
            found = together['embedded'][0, start : start + len(alone)]
            torch.testing.assert_close(found, alone)
    assert together['masks'].dtype == torch.bool
    assert together['position_ids'][0].tolist() == [0, 0, 1, 2, 3, 0, 1, 0, 1, 2, 0]
    assert together['text_token_mask'].sum(1).tolist() == [11, 4]


def test_padding_never_changes_valid_tokens(bert):
    for told in (PHRASES, dict(max_tokens=64, pad_to_max=False)):
        model = BertModel(bert, **told).eval()
        with torch.no_grad():
            alone = model(TEXTS[1:])['embedded'][0]
            padded = model(TEXTS)['embedded'][1, : len(alone)]
        # The last token, [SEP], is in a phrase of its own at the end of a text alone.
        torch.testing.assert_close(padded[:-1], alone[:-1])


@pytest.mark.parametrize('pooler', [True, False])
def test_keys_are_mmdetections(bert, pooler):
    ours = BertModel(bert, max_tokens=64, add_pooling_layer=pooler)
    theirs = stock(name=bert, add_pooling_layer=pooler)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    ours.load_state_dict(theirs.state_dict(), strict=True)
    body = 'language_backbone.body.model.encoder.layer.0.attention.self.query.weight'
    assert body in ours.state_dict()
    assert ours.language_backbone.body.language_dim == 32


@pytest.mark.skipif(IS_FIVE, reason="MMDetection's does not run with transformers 5")
@pytest.mark.parametrize(
    'told', [PHRASES, dict(max_tokens=16), dict(max_tokens=9, num_layers_of_embedded=2)]
)
def test_equals_mmdetections(bert, told):
    ours, theirs = BertModel(bert, **told).eval(), stock(name=bert, **told)
    with torch.no_grad():
        found, expected = ours(TEXTS), theirs(TEXTS)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value)


def test_gradients_with_less_memory(bert):
    found = []
    for use_checkpoint in (False, True):
        model = BertModel(bert, use_checkpoint=use_checkpoint, **PHRASES)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with seeded(1):
            model.train()(TEXTS)['embedded'].square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 40
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('told', [PHRASES, dict(max_tokens=16)])
def test_bfloat16(bert, told):
    model = BertModel(bert, **told).eval()
    with torch.no_grad():
        expected = model(TEXTS)['embedded']
        with torch.autocast('cpu', torch.bfloat16):
            mixed = model(TEXTS)['embedded']
        half = model.to(torch.bfloat16)(TEXTS)['embedded']
    for found in (mixed, half):
        assert found.isfinite().all()
        assert (found - expected).abs().max() < 0.2


def test_weights_are_float32_whatever_the_file_has(bert, tmp_path):
    model = transformers.BertModel.from_pretrained(bert).half()
    model.save_pretrained(tmp_path)
    for name in ('vocab.txt', 'tokenizer_config.json'):
        (tmp_path / name).write_bytes((bert_file(bert, name)).read_bytes())
    assert {p.dtype for p in BertModel(str(tmp_path), max_tokens=64).parameters()} == {
        torch.float32
    }


def bert_file(folder, name):

    return Path(folder) / name


def test_what_is_not_there(bert, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'bert-base-uncased' could not be had"
    ):
        BertModel()
    with pytest.raises(FileNotFoundError, match='must be a folder with a tokenizer in'):
        BertModel(str(tmp_path))
    for name in ('vocab.txt', 'tokenizer_config.json', 'config.json'):
        (tmp_path / name).write_bytes((bert_file(bert, name)).read_bytes())
    with pytest.raises(FileNotFoundError, match='a folder with weights of a BertModel'):
        BertModel(str(tmp_path))


def test_weights_of_another_model(tmp_path):
    folder = make_bert(tmp_path, 'MobileBertModel', num_hidden_layers=1)
    with pytest.raises(ValueError, match=r'must have the weights of a BertModel, but'):
        BertModel(str(folder))


def test_texts_longer_than_the_model_knows_places_for(bert):
    with pytest.raises(
        ValueError, match='max_tokens must be at most 256, the positions'
    ):
        BertModel(bert, max_tokens=257)
    model = BertModel(bert, max_tokens=300, pad_to_max=False)
    assert model(['cat'])['embedded'].shape == (1, 3, 32)
    with pytest.raises(ValueError, match='text must have at most 256 .* but has 300'):
        model(['cat ' * 400])


def test_positions_of_phrases_begin_anew(bert, tmp_path):
    """Short phrases make a long text, as in MMDetection."""
    short = make_bert(tmp_path / 'short', max_position_embeddings=8)
    told = dict(PHRASES, max_tokens=256, pad_to_max=False)
    model = BertModel(str(short), **told).eval()
    with torch.no_grad():
        one, many = (model(['cat . ' * n])['embedded'][0] for n in (2, 60))
    assert many.shape == (122, 32)
    torch.testing.assert_close(many[1:-1].view(60, 2, 32)[7], one[1:3])
    with pytest.raises(ValueError, match='phrase must have at most 8 .* but has'):
        model(['cat ' * 20 + '.'])


def test_layers_of_the_embedding_exist(bert):
    for count in (0, 4):
        with pytest.raises(ValueError, match='must be from 1 to 3, the layers'):
            BertModel(bert, num_layers_of_embedded=count)


def test_folders_that_do_not_exist(bert, tmp_path):
    for name in ('/no/such', './no/such', 'work_dirs/no/such', '~/no'):
        with pytest.raises(FileNotFoundError, match='is a folder that does not exist'):
            BertModel(name)
    with pytest.raises(FileNotFoundError, match="folder that torch does not have: 'x'"):
        BertModel('package:torch/x')
    assert BertModel(Path(bert)).name == bert


def test_phrases_need_what_ends_them(bert):
    with pytest.raises(ValueError, match='needs special_tokens_list'):
        BertModel(bert, max_tokens=64, use_sub_sentence_represent=True)
