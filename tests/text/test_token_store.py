"""Texts on disk: what is read, cut, kept, and made anew."""

import json
import pickle

import numpy as np
import pytest
import torch
import transformers

import mmkd  # noqa: F401
from mmkd.registry import DATASETS, FUNCTIONS
from mmkd.text import sources, token_store
from mmkd.text.dataset import TextDataset
from mmkd.text.sources import class_names, class_prompts

CLS, SEP = 2, 3


@pytest.fixture
def told(bert, tmp_path):
    """Arguments of every data set here."""
    return dict(name=bert, cache_dir=str(tmp_path / 'tokens'))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'texts.txt'
    path.write_text('a cat\n\n  \nthe dog runs\nzebra zebra zebra zebra zebra\n')
    return str(path)


def texts_of(dataset, bert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    return [
        ' '.join(tokenizer.convert_ids_to_tokens(item['input_ids'][1:-1].tolist()))
        for item in dataset
    ]


def test_lines(told, file, bert):
    dataset = DATASETS.build(dict(type='mmkd.TextDataset', file=file, **told))
    assert texts_of(dataset, bert) == ['a cat', 'the dog runs', ' '.join(['zebra'] * 5)]
    for item in dataset:
        assert item['input_ids'][0] == CLS
        assert item['input_ids'][-1] == SEP
    with pytest.raises(IndexError):
        dataset[3]


def test_long_lines_become_several(told, file, bert):
    dataset = TextDataset(file=file, max_tokens=4, **told)
    assert texts_of(dataset, bert) == [
        *('a cat', 'the dog', 'runs'),
        *('zebra zebra', 'zebra zebra', 'zebra'),
    ]


def test_columns(told, tmp_path, bert):
    path = tmp_path / 'labelled.txt'
    path.write_text('a cat\tpet\nthe street\tplace\n\tnothing\n')
    dataset = TextDataset(file=str(path), column=0, **told)
    assert texts_of(dataset, bert) == ['a cat', 'the street']
    with pytest.raises(ValueError, match='below 2, the columns of line 1 of .* is 2'):
        TextDataset(file=str(path), column=2, **told)


@pytest.mark.parametrize(
    'content',
    [
        dict(
            annotations=[dict(caption='a cat'), dict(caption=' '), dict(caption='dog')]
        ),
        ['a cat', 'dog'],
        [dict(caption='a cat'), dict(caption='dog')],
    ],
)
def test_captions(told, tmp_path, bert, content):
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps(content))
    assert texts_of(TextDataset(file=str(path), **told), bert) == ['a cat', 'dog']


@pytest.mark.parametrize('content', [dict(images=[]), [dict(text='a')], [3]])
def test_captions_that_are_none(told, tmp_path, content):
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='without a caption|list of captions or have'):
        TextDataset(file=str(path), **told)


def test_prompts():
    names = ['cat', 'big_dog', 'bow_(decorative_ribbons)']
    found = list(class_prompts(names, 50, 0, None))
    assert found == list(class_prompts(names, 50, 0, None))
    assert found != list(class_prompts(names, 50, 1, None))
    # Each has its own draw: fewer are the first ones.
    assert found[:5] == list(class_prompts(names, 5, 0, None))
    parts = [text.removesuffix('. ').split('. ') for text in found]
    assert {len(part) for part in parts} == {1, 2, 3}
    assert {name for part in parts for name in part} == {'cat', 'big dog', 'bow'}
    assert all(len(set(part)) == len(part) for part in parts)
    assert all(len(t.split('. ')) <= 3 for t in class_prompts(names, 50, 0, 2))


def test_names_of_classes(tmp_path):
    pytest.importorskip('mmdet')
    coco = class_names('mmdet.CocoDataset')
    assert len(coco) == 80
    path = tmp_path / 'classes.json'
    path.write_text(json.dumps(dict(categories=[dict(id=1, name='cat')])))
    assert class_names(str(path)) == ['cat']
    with pytest.raises(ValueError, match='but \\[\\] has none'):
        class_names([])


def test_prompts_as_a_data_set(told, bert):
    dataset = TextDataset(classes=['cat', 'red car'], prompts=8, **told)
    texts = texts_of(dataset, bert)
    assert set(texts) <= {
        'cat .',
        'red car .',
        'cat . red car .',
        'red car . cat .',
    }
    assert len(texts) == 8


def test_parts(told, file, bert):
    first = TextDataset(file=file, part=(0, 0.67), **told)
    second = TextDataset(file=file, part=(0.67, 1), **told)
    assert (len(first), len(second)) == (2, 1)
    assert texts_of(second, bert) == [' '.join(['zebra'] * 5)]
    with pytest.raises(ValueError, match='must have texts but has none in'):
        TextDataset(file=file, part=(0.0, 0.1), **told)


def test_tokenized_once(told, file, monkeypatch, tmp_path):
    TextDataset(file=file, **told)
    monkeypatch.setattr(token_store, '_pieces', lambda *_: pytest.fail('read again'))
    assert len(TextDataset(file=file, part=(0, 0.67), **told)) == 2
    # Another text, another length and another tokenizer are something else.
    with pytest.raises(pytest.fail.Exception, match='read again'):
        TextDataset(file=file, max_tokens=9, **told)
    (tmp_path / 'texts.txt').write_text('a dog\n')
    with pytest.raises(pytest.fail.Exception, match='read again'):
        TextDataset(file=file, **told)


def test_nothing_is_left_of_what_was_interrupted(told, file, monkeypatch, tmp_path):
    def interrupted(*_):
        yield [1, 2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(token_store, '_pieces', interrupted)
        with pytest.raises(KeyboardInterrupt):
            TextDataset(file=file, **told)
    assert list((tmp_path / 'tokens').iterdir()) == []
    assert len(TextDataset(file=file, **told)) == 3


def test_lines_are_read_as_they_are_needed(tmp_path, monkeypatch):
    """A file that fits no memory: tokenized a thousand lines at a time."""
    path = tmp_path / 'many.txt'
    path.write_text('cat\n' * 5000)
    seen = []

    class Tokenizer:
        def __call__(self, texts, **told):
            seen.append(len(texts))
            return dict(input_ids=[[7] for _ in texts])

    token_store.write(tmp_path / 'out', sources.lines(path), Tokenizer(), 10)
    assert seen == [1000] * 5
    store = token_store.TokenStore(tmp_path / 'out')
    assert len(store) == 5000
    assert isinstance(store._tokens, np.memmap)
    assert store[4999].tolist() == [7]


def test_a_batch_is_padded_to_its_longest():
    pad = FUNCTIONS.get('mmkd.pad_tokens')
    items = [dict(input_ids=torch.tensor(ids)) for ids in ([2, 8, 9, 3], [2, 3])]
    batch = pad(items)['captions']
    assert batch['input_ids'].tolist() == [[2, 8, 9, 3], [2, 3, 0, 0]]
    assert batch['attention_mask'].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert pad(items, pad_id=5)['captions']['input_ids'][1].tolist() == [2, 3, 5, 5]


def test_another_run_may_be_faster(told, file, monkeypatch, tmp_path):
    """Two that begin together write the same; the second one takes the first one's."""
    write = token_store.write

    def both(folder, texts, tokenizer, longest):
        texts = list(texts)
        write(folder, texts, tokenizer, longest)
        write(folder, texts, tokenizer, longest)

    monkeypatch.setattr('mmkd.text.dataset.write', both)
    assert len(TextDataset(file=file, **told)) == 3
    (folder,) = (tmp_path / 'tokens').iterdir()
    assert folder.stat().st_mode & 0o055  # others may read it


def test_workers_open_the_files_anew(told, file):
    dataset = TextDataset(file=file, **told)
    twin = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(twin[1]['input_ids'], dataset[1]['input_ids'])
    assert len(pickle.dumps(dataset._store)) < 1000


def test_what_is_said_wrong(told, file):
    with pytest.raises(ValueError, match='either a file or classes'):
        TextDataset(**told)
    with pytest.raises(ValueError, match='either a file or classes'):
        TextDataset(file=file, classes=['cat'], **told)
    with pytest.raises(FileNotFoundError, match="'nowhere.txt' does not exist"):
        TextDataset(file='nowhere.txt', **told)
    with pytest.raises(ValueError, match=r'0 <= from < to <= 1 but is \(0.5, 0.5\)'):
        TextDataset(file=file, part=(0.5, 0.5), **told)
    with pytest.raises(ValueError, match='at least 3 but is 2'):
        TextDataset(file=file, max_tokens=2, **told)
