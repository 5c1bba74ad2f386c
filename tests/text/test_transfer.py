"""mmkd.MobileBertTransfer: its terms, its stages, its words, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from mmengine.registry import MODELS
from tiny_text import PHRASES, THIN, make_bert, seeded

import mmkd  # noqa: F401
from mmkd.text import BertModel, MobileBertModel
from mmkd.text.masked_lm import hide_words
from mmkd.text.schedule import Schedule

TEXTS = ['a red cat . dog . big person .', 'zebra runs .']
COPIED = dict(THIN, embedding_size=32, trigram_input=False)
PLAIN = dict(max_tokens=64, pad_to_max=False)


def make(bert, structure=COPIED, told=PHRASES, seed=3, **transfer):
    """A transfer, built from a config, in its first iteration of 30."""
    student = dict(type='mmkd.MobileBertModel', name=bert, structure=structure, **told)
    cfg = dict(type='mmkd.MobileBertTransfer', student=student, teacher=bert)
    with seeded(seed):
        model = MODELS.build({**cfg, **transfer})
    model.transfer.iteration, model.transfer.max_iters = 0, 30
    return model.train()


def step(model, iteration=0, texts=TEXTS):
    model.transfer.iteration = iteration
    return model(model.tokenize(texts), mode='loss')


def total(losses):
    return sum(value for key, value in losses.items() if 'loss' in key)


@pytest.fixture(scope='module')
def lm(tmp_path_factory):
    """Folder of a small BERT with a head for masked words."""
    return str(make_bert(tmp_path_factory.mktemp('lm'), 'BertForMaskedLM'))


def eager(folder):
    return transformers.BertModel.from_pretrained(
        folder, attn_implementation='eager'
    ).eval()


def test_is_its_student(bert):
    model = make(bert)
    assert isinstance(model, MobileBertModel)
    state = model.state_dict()
    alone = MobileBertModel(bert, COPIED, **PHRASES).eval()
    alone.load_state_dict(state, strict=True)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(TEXTS)['embedded'], alone(TEXTS)['embedded'])
    assert not [key for key in state if 'transfer' in key]
    assert not list(model.transfer.parameters())  # the teacher's are not in it
    assert model.transfer.copied == ['embeddings']


def test_terms_equal_a_plain_reference(bert):
    """Of a student that is a BERT, too: transformers' own outputs and probabilities."""
    other = make_bert(Path(bert).parent / 'other-bert', seed=9)
    student = dict(type='mmkd.BertModel', name=str(other), **PLAIN)
    model = MODELS.build(
        dict(
            type='mmkd.MobileBertTransfer',
            student=student,
            teacher=bert,
            schedule='joint',
            weights=dict(mean=7.0),
        )
    )
    with torch.no_grad():
        model.encoder.model.embeddings.load_state_dict(
            BertModel(str(other), max_tokens=64).encoder.model.embeddings.state_dict()
        )
        losses = step(model)
        tokens = model.tokenize(TEXTS)
        told = dict(output_hidden_states=True, output_attentions=True)
        s, t = (eager(folder)(**tokens, **told) for folder in (other, bert))
    valid = tokens['attention_mask'].bool()
    expected = dict.fromkeys(('feature_map', 'mean', 'variance', 'attention'), 0.0)
    for i in range(3):
        a, b = s.hidden_states[i + 1][valid], t.hidden_states[i + 1][valid]
        a_norm, b_norm = (F.layer_norm(x, (32,)) for x in (a, b))
        expected['feature_map'] += (a_norm - b_norm).pow(2).mean().item()
        expected['mean'] += (a.mean(1) - b.mean(1)).pow(2).mean().item()
        difference = a.var(1, unbiased=False) - b.var(1, unbiased=False)
        expected['variance'] += difference.abs().mean().item()
        p, q = t.attentions[i], s.attentions[i].clamp(min=1e-30)
        rows = -(p * q.log()).sum(-1).permute(0, 2, 1)[valid]
        expected['attention'] += rows.mean().item()
    for name, factor in (
        ('feature_map', 100),
        ('mean', 7),
        ('variance', 5),
        ('attention', 1),
    ):
        found = losses[f'loss_{name}'].item()
        assert found == pytest.approx(factor * expected[name] / 3, rel=1e-4), name


@pytest.mark.parametrize('told', [PHRASES, PLAIN])
@pytest.mark.parametrize('schedule', ['joint', 'progressive'])
def test_padding_changes_nothing(bert, told, schedule):
    model = make(bert, told=told, schedule=schedule)
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        expected = model(tokens, mode='loss')
        wider = {key: F.pad(value, (0, 5)) for key, value in tokens.items()}
        wider['input_ids'][:, -2:] = 9  # whatever stands there
        found = model(wider, mode='loss')
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)


def test_only_the_tokens_of_a_phrase_are_compared(bert):
    """Attention of phrases in one text is that of each alone, query by query."""
    model = make(bert, schedule='joint', weights=dict(attention=1.0))
    phrases = ['red cat .', 'dog .', 'big person .']

    def summed(text):
        tokens = model.tokenize([text])['input_ids'].shape[1]
        return step(model, texts=[text])['loss_attention'].item() * tokens

    with torch.no_grad():
        # [CLS] and [SEP] see themselves alone: of one key there is nothing to learn.
        assert summed('.') == pytest.approx(0, abs=1e-6)
        together = summed(' '.join(phrases))
        assert together == pytest.approx(sum(map(summed, phrases)), rel=1e-5)
        assert together > 1


def test_dropout_is_off(bert):
    model = make(bert, schedule='joint')
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p]
    assert model.training
    assert total(step(model)) == total(step(model))


@pytest.mark.parametrize(
    ('iteration', 'layers', 'rates', 'words'),
    [
        (0, [0], (1.0, 0.0, 0.0), False),
        (9, [0], (1.0, 0.0, 0.0), False),
        (10, [0, 1], (0.1, 1.0, 0.0), False),
        (29, [0, 1, 2], (0.1, 0.1, 1.0), False),
        (30, [], (1.0, 1.0, 1.0), True),
    ],
)
def test_progressive_stages(iteration, layers, rates, words):
    stage = Schedule('progressive', 3, 30).at(iteration, 40)
    assert list(stage.layers) == layers
    assert stage.rates == rates
    assert stage.masked_lm == words
    assert stage.rest == float(words)


def test_other_stages():
    joint = Schedule('joint', 3, 30)
    assert list(joint.at(29, 40).layers) == [0, 1, 2]
    assert not joint.at(29, 40).masked_lm
    assert joint.at(30, 40).masked_lm
    # Without a number the layers take all of the training, unequal parts at the end.
    whole = [Schedule('progressive', 3, None).at(i, 10).layers[-1] for i in range(10)]
    assert whole == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    auxiliary = Schedule('auxiliary', 3, None).at(5, 10)
    assert auxiliary.masked_lm
    assert list(auxiliary.layers) == [0, 1, 2]


@pytest.mark.parametrize('structure', [COPIED, THIN], ids=['copied', 'new embeddings'])
def test_a_term_reaches_its_own_layer_alone(bert, structure):
    """Layers that wait get nothing; of a later layer's terms none gets anything."""
    model = make(bert, structure)
    for iteration, layers in ((0, {'0'}), (10, {'0', '1'}), (20, {'0', '1', '2'})):
        model.zero_grad()
        total(step(model, iteration)).backward()
        found = {n for n, p in model.named_parameters() if p.grad is not None}
        assert {model.transfer.part_of(name) for name in found} == layers
        has_embeddings = any('word_embeddings' in name for name in found)
        assert has_embeddings == (structure is THIN)
    # What the first layer gets in the last stage is what it gets in its own.
    gradients = []
    for iteration in (0, 29):
        model.zero_grad()
        total(step(model, iteration)).backward()
        gradients.append(
            {n: p.grad for n, p in model.named_parameters() if '.layer.0.' in n}
        )
    assert len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_words_are_hidden_as_berts_are(bert):
    model = make(bert)
    tokens = model.tokenize(['a red cat sits on the mat and a big dog runs'] * 400)
    hidden, guessed = hide_words(tokens, model.tokenizer, 0, 0)
    ids = tokens['input_ids']
    special = torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids))
    assert not (guessed & special).any()
    share = guessed.sum() / (~special).sum()
    assert share.item() == pytest.approx(0.15, abs=0.02)
    is_mask = hidden['input_ids'][guessed] == model.tokenizer.mask_token_id
    assert is_mask.float().mean().item() == pytest.approx(0.8, abs=0.05)
    is_same = hidden['input_ids'][guessed] == ids[guessed]
    assert is_same.float().mean().item() == pytest.approx(0.1 + 0.1 / 27, abs=0.05)
    assert torch.equal(hidden['input_ids'][~guessed], ids[~guessed])
    again, _ = hide_words(tokens, model.tokenizer, 0, 0)
    assert torch.equal(again['input_ids'], hidden['input_ids'])
    wider = {key: F.pad(value, (0, 5)) for key, value in tokens.items()}
    padded, _ = hide_words(wider, model.tokenizer, 0, 0)
    assert torch.equal(padded['input_ids'][:, : ids.shape[1]], hidden['input_ids'])
    other, _ = hide_words(tokens, model.tokenizer, 0, 1)
    assert not torch.equal(other['input_ids'], hidden['input_ids'])


def test_what_ends_a_phrase_is_no_word(bert):
    model = make(bert)
    tokens = model.tokenize(['cat . dog . red car .'] * 200)
    hidden, guessed = hide_words(tokens, model.tokenizer, 0, 0, model.special_tokens)
    ends = torch.isin(tokens['input_ids'], torch.tensor(model.special_tokens))
    assert guessed.any()
    assert not (guessed & ends).any()
    found = torch.isin(hidden['input_ids'], torch.tensor(model.special_tokens))
    assert torch.equal(found, ends)


def test_words_are_guessed_with_soft_targets(lm):
    """The student being its teacher, the loss is transformers' and an entropy."""
    student = dict(type='mmkd.BertModel', name=lm, **PLAIN)
    cfg = dict(type='mmkd.MobileBertTransfer', student=student, teacher=lm)
    reference = transformers.BertForMaskedLM.from_pretrained(lm).eval()
    for soft in (0.0, 0.5, 1.0):
        model = MODELS.build(
            dict(cfg, schedule='joint', transfer_iters=0, soft_targets=soft)
        )
        assert model.transfer.copied == ['embeddings', 'head']
        texts = ['a red cat sits on the mat and a big dog runs'] * 8
        model.transfer.max_iters = 10
        losses = step(model, 5, texts)
        assert set(losses) == {'loss_masked_lm'}
        tokens = model.tokenize(texts)
        hidden, guessed = hide_words(tokens, model.tokenizer, model.transfer.seed, 5)
        with torch.no_grad():
            logits = reference(**hidden).logits[guessed]
        hard = F.cross_entropy(logits, tokens['input_ids'][guessed]).item()
        p = logits.softmax(-1)
        entropy = -(p * p.log()).sum(-1).mean().item()
        expected = (1 - soft) * hard + soft * entropy
        assert losses['loss_masked_lm'].item() == pytest.approx(expected, rel=1e-4)


def test_the_head_has_further_columns_for_narrow_embeddings(lm):
    model = make(lm, THIN, schedule='joint', transfer_iters=0)
    assert model.transfer.copied == []
    assert model.transfer.head.dense.weight.shape == (16, 27)
    loss = total(step(model))
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert loss.item() == pytest.approx(math.log(27), rel=0.5)


def test_a_copied_head_has_its_own_activation(lm):
    """A student's is ReLU, its teacher's head was trained with GELU."""
    model = make(lm, schedule='joint', transfer_iters=0)
    assert model.transfer.copied == ['embeddings', 'head']
    theirs = model.transfer.teacher.model.head
    hidden, words = torch.randn(3, 32), torch.randn(27, 32)
    assert torch.equal(model.transfer.head(hidden, words), theirs(hidden, words))


def test_auxiliary_does_both(lm):
    losses = step(make(lm, schedule='auxiliary'))
    assert set(losses) == {
        'loss_feature_map',
        'loss_mean',
        'loss_variance',
        'loss_attention',
        'loss_masked_lm',
        'layers',
    }


def test_float16_would_not_hold_features_without_normalisation(bert):
    """Its layers run in full precision, whatever autocast says."""
    model = MobileBertModel(bert, COPIED, **PHRASES).eval()
    with torch.no_grad():
        model.encoder.layers[0].output.bottleneck.LayerNorm.weight.fill_(1e6)
        expected = model(TEXTS)['embedded']
        with torch.autocast('cpu', torch.float16):
            found = model(TEXTS)['embedded']
    assert expected.abs().max() > torch.finfo(torch.float16).max
    assert torch.equal(found, expected)


@pytest.mark.parametrize('told', [PHRASES, PLAIN])
def test_bfloat16(bert, told):
    model = make(bert, told=told, schedule='joint')
    expected = step(model)
    with torch.autocast('cpu', torch.bfloat16):
        found = step(model)
    total(found).backward()
    for key, value in found.items():
        assert value.isfinite()
        assert value.item() == pytest.approx(expected[key].item(), rel=0.1, abs=0.02)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert len(grads) > 20


def test_validation_says_how_near_it_is(bert):
    model = make(bert).eval()
    found = model.val_step(dict(captions=model.tokenize(TEXTS)))
    teacher = BertModel(bert, **PHRASES).eval()
    with torch.no_grad():
        ours, theirs = model(TEXTS), teacher(TEXTS)
    for i, result in enumerate(found):
        valid = ours['text_token_mask'][i]
        s, t = ours['hidden'][i][valid], theirs['hidden'][i][valid]
        cosine = F.cosine_similarity(s, t, dim=1).mean().item()
        assert result['cosine'] == pytest.approx(cosine, abs=1e-5)
        error = ((s - t).norm() / t.norm()).item()
        assert result['relative_error'] == pytest.approx(error, rel=1e-5)
        last = (F.layer_norm(s, (32,)) - F.layer_norm(t, (32,))).square().mean().item()
        assert len(result['layers']) == 3
        assert result['layers'][-1] == pytest.approx(last, rel=1e-4)
    teacher = dict(type='mmkd.BertModel', name=bert, **PHRASES)
    same = MODELS.build(
        dict(type='mmkd.MobileBertTransfer', student=teacher, teacher=bert)
    ).eval()
    (found, _) = same.val_step(dict(captions=same.tokenize(TEXTS)))
    assert found['cosine'] == pytest.approx(1)
    assert found['relative_error'] == pytest.approx(0, abs=1e-6)
    assert found['layers'] == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_teacher_of_a_detector(bert, tmp_path):
    """Its own encoder, from its checkpoint, with the tokenizer of a folder."""
    tuned = BertModel(bert, **PHRASES)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.1
    state = {f'language_model.{k}': v for k, v in tuned.state_dict().items()}
    state['backbone.weight'] = torch.ones(1)
    torch.save(dict(state_dict=state), tmp_path / 'detector.pth')
    language_model = dict(type='BertModel', name='bert-base-uncased', **PHRASES)
    (tmp_path / 'detector.py').write_text(
        f'model = dict(type="GroundingDINO", language_model={language_model})'
    )
    teacher = dict(
        config=str(tmp_path / 'detector.py'),
        checkpoint=str(tmp_path / 'detector.pth'),
        name=bert,
    )
    model = make(bert, teacher=teacher)
    found = model.transfer.teacher.model.encoder.state_dict()
    for key, value in tuned.encoder.state_dict().items():
        assert torch.equal(found[key], value), key
    embeddings = model.encoder.model.embeddings.state_dict()
    assert torch.equal(
        embeddings['word_embeddings.weight'],
        tuned.encoder.model.embeddings.word_embeddings.weight,
    )
    with pytest.raises(ValueError, match='special_tokens_list of the student must be'):
        make(bert, told=PLAIN, teacher=teacher)
    torch.save(dict(state_dict=dict(a=torch.ones(1))), tmp_path / 'detector.pth')
    with pytest.raises(
        ValueError, match="no weights that begin with 'language_model.'"
    ):
        make(bert, teacher=teacher)


def test_what_is_copied_can_be_told(bert, lm):
    told = dict(schedule='joint', transfer_iters=1)
    assert make(lm, **told).transfer.copied == ['embeddings', 'head']
    assert make(lm, copy=['head'], **told).transfer.copied == ['head']
    alone = make(bert, copy=[])
    assert alone.transfer.copied == []
    theirs = alone.transfer.teacher.model.encoder.model.embeddings
    own = alone.encoder.model.embeddings
    assert not torch.equal(own.word_embeddings.weight, theirs.word_embeddings.weight)
    for wrong in ('head', ['body']):
        with pytest.raises(ValueError, match='copy must be a list of'):
            make(bert, copy=wrong)


def test_another_tokenizer_is_a_sentence(bert, tmp_path):
    other = make_bert(tmp_path / 'other')
    words = (other / 'vocab.txt').read_text().split()
    words[-1], words[-2] = words[-2], words[-1]
    (other / 'vocab.txt').write_text('\n'.join(words) + '\n')
    with pytest.raises(ValueError, match='must have the words of its teacher'):
        make(bert, teacher=str(other))


def test_tokens_of_another_data_set_are_a_sentence(bert):
    for ids, sentence in (
        (torch.zeros(1, 257, dtype=torch.long), 'at most 256 tokens, .* but has 257'),
        (torch.full((1, 4), 900), '27 words, but there is a token 900'),
    ):
        model = make(bert, told=PLAIN)
        model.transfer.iteration, model.transfer.max_iters = 0, 10
        tokens = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
        with pytest.raises(ValueError, match=sentence):
            model(tokens, mode='loss')


def test_what_does_not_fit(bert, lm):
    for key, value, theirs in (
        ('num_hidden_layers', 2, 3),
        ('hidden_size', 40, 32),
        ('num_attention_heads', 2, 4),
    ):
        with pytest.raises(ValueError, match=f'{key} of the student must be {theirs}'):
            make(bert, dict(THIN, **{key: value}))
    with pytest.raises(ValueError, match="must be one of .* but is 'layerwise'"):
        make(bert, schedule='layerwise')
    with pytest.raises(ValueError, match="weights must be of .* not \\['hidden'\\]"):
        make(bert, weights=dict(hidden=1.0))
    for wrong in (dict(mean='a'), dict(mean=-1.0), dict(mean=float('nan'))):
        with pytest.raises(ValueError, match='mean of weights must be a number'):
            make(bert, weights=wrong)
    with pytest.raises(TypeError, match='weights must be a dict of .* but is a list'):
        make(bert, weights=[1.0])
    with pytest.raises(ValueError, match='transfer_iters must be 0 or None without a'):
        make(bert, teacher=None, transfer_iters=5)
    with pytest.raises(ValueError, match='soft_targets must be 0, since the teacher'):
        make(bert, schedule='auxiliary')
    assert make(bert, schedule='auxiliary', soft_targets=0.0).transfer.head is not None
    with pytest.raises(ValueError, match="None with schedule='auxiliary'"):
        make(lm, schedule='auxiliary', transfer_iters=5)
    with pytest.raises(ValueError, match='0 or at least 3, one for every layer'):
        make(lm, transfer_iters=2)
    with pytest.raises(ValueError, match='must be from 0 to 1 but is 50'):
        make(lm, schedule='auxiliary', soft_targets=50)
    for told, iterations, least in (
        (dict(schedule='progressive'), 2, 3),
        (dict(schedule='joint', transfer_iters=9), 9, 10),
    ):
        with pytest.raises(ValueError, match=f'at least {least} iterations'):
            make(lm, **told).transfer.schedule.check(iterations)
    with pytest.raises(ValueError, match='out_dim of the student must be None'):
        make(bert, told=dict(PHRASES, out_dim=48))
    with pytest.raises(ValueError, match='student must be a text encoder of mmkd'):
        MODELS.build(
            dict(
                type='mmkd.MobileBertTransfer',
                student=torch.nn.Linear(1, 1),
                teacher=bert,
            )
        )
    for teacher, sentence in (
        (dict(checkpoint='a.pth'), 'must have a name, or a config and a checkpoint'),
        (dict(config='mmkd::skds/fpn_mbv2_camvid.py'), 'teacher has no weights'),
        (dict(name=bert, device='cpu'), r"but has \['device'\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make(bert, teacher=teacher)
    with pytest.raises(TypeError, match='but is a int'):
        make(bert, teacher=3)
    model = make(bert)
    model.transfer.iteration = None
    with pytest.raises(RuntimeError, match="type='mmkd.TransferHook'"):
        model(model.tokenize(TEXTS), mode='loss')
