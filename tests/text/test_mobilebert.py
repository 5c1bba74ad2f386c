"""mmkd.MobileBertModel: its blocks, its sizes, IB-BERT, and what is refused."""

import pytest
import torch
import transformers
from tiny_text import PHRASES, THIN, make_bert, seeded

import mmkd  # noqa: F401
from mmkd.text import BertModel, MobileBertModel
from mmkd.text.mobilebert import build

TEXTS = ['a red cat . dog . big person .', 'zebra .']
#: Of BERT-base, the encoder of Grounding DINO.
BASE = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intra_bottleneck_size=192,
    intermediate_size=768,
    num_feedforward_networks=4,
)
COPIED = dict(embedding_size=768, trigram_input=False)
IB_BERT = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intra_bottleneck_size=64,
    intermediate_size=128,
    num_feedforward_networks=1,
    embedding_size=16,
    key_query_shared_bottleneck=False,
    normalization_type='layer_norm',
    hidden_act='gelu',
)


def test_equals_transformers(tmp_path):
    folder = make_bert(tmp_path, 'MobileBertModel', **THIN)
    model = MobileBertModel(str(folder), max_tokens=64, pad_to_max=False).eval()
    reference = transformers.MobileBertModel.from_pretrained(folder).eval()
    tokens = model.tokenize(['a red cat sits on the mat'])
    with torch.no_grad():
        found = model.encoder.hidden_states(model.inputs_of(tokens))
        expected = reference(**tokens, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_transformers_embeddings_see_padding(tmp_path):
    """Why words are masked here: its trigrams reach into what follows the last one."""
    folder = make_bert(tmp_path, 'MobileBertModel', **THIN)
    model = transformers.MobileBertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0] = 1.0  # of [PAD]
        ids = torch.tensor([[2, 8, 9, 3]])
        padded = torch.tensor([[2, 8, 9, 3, 0, 0]])
        alone = model(ids).last_hidden_state
        mask = (padded > 0).long()
        beside = model(padded, attention_mask=mask).last_hidden_state[:, :4]
        assert (alone - beside).abs().max() > 0.01
        ours = MobileBertModel(str(folder), max_tokens=64, pad_to_max=False).eval()
        words = ours.encoder.model.embeddings.word_embeddings
        words.weight[0] = 1.0
        for tokens in (ids, padded):
            found = ours(dict(input_ids=tokens, attention_mask=(tokens > 0).long()))
            torch.testing.assert_close(found['hidden'][:, :4], alone)


@pytest.mark.parametrize('told', [PHRASES, dict(max_tokens=64, pad_to_max=False)])
@pytest.mark.parametrize(
    'structure',
    [THIN, dict(THIN, embedding_size=32, trigram_input=False), IB_BERT],
    ids=['trigrams', 'copied', 'IB-BERT'],
)
def test_padding_never_changes_valid_tokens(bert, told, structure):
    model = MobileBertModel(bert, structure, **told).eval()
    with torch.no_grad():
        alone = model(TEXTS[1:])['embedded'][0]
        padded = model(TEXTS)['embedded'][1, : len(alone)]
    torch.testing.assert_close(padded[:-1], alone[:-1])


def test_trigrams_end_with_their_phrase(bert):
    """A class's features are the same, whatever classes are beside it."""
    model = MobileBertModel(bert, THIN, **PHRASES).eval()
    with torch.no_grad():
        first, second = (
            model([text])['embedded'][0, 1:3]
            for text in ('cat . dog .', 'cat . zebra .')
        )
        torch.testing.assert_close(first, second)
        alone = model(['dog .'])['embedded'][0, 1:3]
        torch.testing.assert_close(model(['cat . dog .'])['embedded'][0, 3:5], alone)


@pytest.mark.parametrize(
    ('structure', 'millions'),
    [({}, 24.6), (BASE, 27.3), ({**BASE, **COPIED}, 46.5)],
    ids=['the paper', 'for BERT-base', 'with its embeddings'],
)
def test_sizes(tmp_path, structure, millions):
    """25.3 M in the paper: with the pooler and the head of its language model."""
    folder = make_bert(tmp_path)
    config = transformers.BertConfig.from_pretrained(folder)
    config.vocab_size, config.max_position_embeddings = 30522, 512
    config.save_pretrained(folder)
    count = sum(p.numel() for p in build(str(folder), structure).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_embeddings_of_berts_own_kind_can_be_copied(bert):
    structure = dict(THIN, embedding_size=32, trigram_input=False)
    student = MobileBertModel(bert, structure, **PHRASES).eval()
    teacher = BertModel(bert, **PHRASES).eval()
    state = teacher.encoder.model.embeddings.state_dict()
    student.encoder.model.embeddings.load_state_dict(state, strict=True)
    x = student.inputs_of(student.tokenize(TEXTS))
    assert torch.equal(student.encoder.embed(x), teacher.encoder.embed(x))
    assert not [k for k in student.state_dict() if 'embedding_transformation' in k]


def test_ib_bert_trains(bert):
    """Queries and keys read what is between the blocks, which is thinner than them."""
    with seeded(0):
        model = MobileBertModel(bert, IB_BERT, **PHRASES)
    attention = model.encoder.layers[0].attention.self
    shapes = {
        name: tuple(getattr(attention, name).weight.shape)
        for name in ('query', 'key', 'value')
    }
    assert shapes == dict(query=(64, 32), key=(64, 32), value=(64, 32))
    assert attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    target = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(20):
        loss = (model(TEXTS)['embedded'] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    # transformers' own cannot run: 64 are asked for where 32 are handed over.
    config = transformers.MobileBertConfig(**IB_BERT, vocab_size=30)
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        transformers.MobileBertModel(config)(torch.ones(1, 3, dtype=torch.long))


def test_another_width(bert):
    model = MobileBertModel(bert, THIN, out_dim=48, **PHRASES)
    assert model.language_backbone.body.language_dim == 48
    features = model(TEXTS)
    assert features['embedded'].shape == features['hidden'].shape == (2, 11, 48)
    assert 'language_backbone.body.projection.weight' in model.state_dict()


def test_structures_that_cannot_be(bert):
    with pytest.raises(
        TypeError, match=r"MobileBertConfig of transformers but .*'ffns'"
    ):
        MobileBertModel(bert, dict(ffns=4))
    with pytest.raises(ValueError, match='num_attention_heads but they are 18 and 4'):
        MobileBertModel(bert, dict(THIN, intra_bottleneck_size=18))
    for wrong, sentence in (
        (dict(hidden_act='foo'), "an activation .* but is 'foo'"),
        (dict(num_attention_heads=0), 'num_attention_heads .* above 0 but is 0'),
        (dict(num_hidden_layers=0), 'num_hidden_layers .* above 0 but is 0'),
        (dict(num_feedforward_networks=0.5), 'networks .* above 0 but is 0.5'),
    ):
        with pytest.raises(ValueError, match=sentence):
            MobileBertModel(bert, dict(THIN, **wrong))
    with pytest.raises(TypeError, match=r"must not have \['vocab_size'\]"):
        MobileBertModel(bert, dict(THIN, vocab_size=9))
    for wrong in (0, -3, 4.0):
        with pytest.raises(ValueError, match='out_dim must be at least 1, or None'):
            MobileBertModel(bert, THIN, out_dim=wrong)
    with pytest.raises(ValueError, match="'no_norm' or 'layer_norm' but is 'batch'"):
        MobileBertModel(bert, dict(THIN, normalization_type='batch'))
    with pytest.raises(FileNotFoundError, match="a config of 'nobody/nothing' could"):
        build('nobody/nothing', THIN)


def test_a_bert_is_no_mobilebert(bert):
    with pytest.raises(ValueError, match=r'the weights of a MobileBertModel, but in'):
        MobileBertModel(bert)
