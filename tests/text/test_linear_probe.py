"""A linear classifier on a text encoder's features."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from sklearn.linear_model import LogisticRegression
from tiny_text import PHRASES, THIN, WORDS, seeded

from mmkd.config import config_root
from mmkd.registry import HOOKS
from mmkd.text.linear_probe_hook import linear_probe, mean_features
from mmkd.training import train_config

CONFIG = str(config_root() / 'mobilebert/mobilebert_minilm_wikitext2.py')
PLAIN = dict(max_tokens=64, pad_to_max=False)


def labelled(folder: Path, shuffled=False):
    """Files of sentences of a cat or a dog, and which of them it is about."""
    generator = np.random.default_rng(0)
    names = []
    for name, count in (('train', 400), ('val', 100)):
        lines = []
        for i in range(count):
            words = [str(w) for w in generator.choice(WORDS[3:], 1 + i % 3)]
            label = int(generator.integers(2))
            words.insert(len(words) // 2, ['cat', 'dog'][label])
            told = int(generator.integers(2)) if shuffled else label
            lines.append(f'{" ".join(words)}\t{told}')
        path = folder / f'{name}.tsv'
        path.write_text('\n'.join(lines) + '\n')
        names.append(str(path))
    return dict(zip(('train', 'val'), names))


def model(bert):
    told = dict(type='mmkd.BertModel', name=bert, **PLAIN)
    return MODELS.build(told).eval()


def test_features_are_means_over_tokens_of_transformers_own_model(bert):
    import transformers

    texts = ['a cat', 'the big red dog runs on the street', 'zebra']
    own = model(bert).train()
    found = mean_features(own, texts, batch_size=2)
    assert own.training
    plain = transformers.BertModel.from_pretrained(bert).eval()
    for text, feature in zip(texts, found):
        tokens = own.tokenizer([text], return_tensors='pt')
        with torch.no_grad():
            expected = plain(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(feature, expected.numpy(), rtol=0, atol=1e-5)


def test_accuracy_equals_a_plain_classifiers():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 5)) * [1, 10, 0.1, 3, 1] + 4
    noise = generator.normal(size=300)
    labels = [str(int(v)) for v in (x[:, 0] + 0.1 * x[:, 1] + noise > 4.4)]
    train, val = (x[:200], labels[:200]), (x[200:], labels[200:])
    mean, std = train[0].mean(0), train[0].std(0)
    plain = LogisticRegression(max_iter=500).fit((train[0] - mean) / std, train[1])
    answers = plain.predict((val[0] - mean) / std)
    assert linear_probe(train, val) == np.mean(answers == np.array(val[1]))
    assert 0.6 < linear_probe(train, val) < 1


@pytest.mark.parametrize('shuffled', [False, True])
def test_what_is_in_the_features_is_found(bert, tmp_path, shuffled):
    hook = HOOKS.build(
        dict(type='mmkd.LinearProbeHook', **labelled(tmp_path, shuffled))
    )
    encoder = model(bert)
    sides = [
        (mean_features(encoder, texts), labels)
        for texts, labels in (hook.train, hook.val)
    ]
    accuracy = linear_probe(*sides)
    # Random weights mix words: not all of it can be read.
    assert accuracy < 0.65 if shuffled else accuracy > 0.75


def test_it_is_logged_by_a_run(bert, tmp_path):
    files = labelled(tmp_path)
    cfg = train_config(CONFIG, work_dir=str(tmp_path / 'work'))
    student = dict(type='mmkd.MobileBertModel', name=bert, structure=THIN)
    cfg.model.update(student=dict(student, **PHRASES), teacher=bert)
    (tmp_path / 'texts.txt').write_text('a red cat . dog .\nbig person .\n' * 8)
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.update(
            name=bert,
            file=str(tmp_path / 'texts.txt'),
            cache_dir=str(tmp_path / 'tokens'),
        )
    cfg.train_cfg.update(max_iters=6, val_interval=6)
    cfg.custom_hooks = [
        dict(type='mmkd.TransferHook'),
        dict(type='mmkd.LinearProbeHook', **files),
    ]
    cfg.default_hooks.checkpoint.update(interval=6, save_best='probe/accuracy')
    cfg.default_hooks.checkpoint.rule = 'greater'
    cfg.log_level = 'ERROR'
    with seeded(1):
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.train()
    (log,) = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
    logged = json.loads(log.read_text().splitlines()[-1])
    (hook,) = (h for h in runner.hooks if type(h).__name__ == 'LinearProbeHook')
    own = [
        (mean_features(runner.model, texts), labels)
        for texts, labels in (hook.train, hook.val)
    ]
    assert logged['probe/accuracy'] == linear_probe(*own)
    assert 'transfer/cosine' in logged
    assert list(Path(cfg.work_dir).glob('best_probe*.pth'))


@pytest.mark.parametrize(
    ('train', 'val', 'sentence'),
    [
        ('a\t0\nb\t1', None, 'does not exist'),
        ('a\t0\nb\n', 'a\t0', 'line 2 of .* must be a text, a tab and a label'),
        ('a\t0\nb\t0', 'a\t0', 'must be at least 2 but are one'),
        ('a\t0\nb\t1', 'a\tx', r"must be of those in .*, not \['x'\]"),
    ],
)
def test_wrong_files(train, val, sentence, tmp_path):
    for name, text in (('train', train), ('val', val)):
        if text is not None:
            (tmp_path / name).write_text(text)
    error = FileNotFoundError if val is None else ValueError
    with pytest.raises(error, match=sentence):
        HOOKS.build(
            dict(
                type='mmkd.LinearProbeHook',
                train=str(tmp_path / 'train'),
                val=str(tmp_path / 'val'),
            )
        )


def test_another_model_is_a_sentence(tmp_path):
    from types import SimpleNamespace

    hook = HOOKS.build(dict(type='mmkd.LinearProbeHook', **labelled(tmp_path)))
    with pytest.raises(ValueError, match='must go with a text encoder .* a Linear'):
        hook.after_val_epoch(SimpleNamespace(model=torch.nn.Linear(1, 1)))
