"""A small BERT in the format of transformers, made on the spot."""

import contextlib
import json
from pathlib import Path

import torch

WORDS = [
    'a',
    'cat',
    'dog',
    'red',
    'big',
    'person',
    'zebra',
    'sits',
    'runs',
    'on',
    'the',
]
WORDS += ['mat', 'and', 'street', 'car', 'bus', 'two', 'men', 'of', 'green']
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?']
#: As Grounding DINO asks for phrases.
PHRASES = dict(
    max_tokens=64,
    pad_to_max=False,
    use_sub_sentence_represent=True,
    special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
)
SMALL = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=256,
)
#: A student of that teacher.
THIN = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intra_bottleneck_size=16,
    intermediate_size=32,
    num_feedforward_networks=2,
    embedding_size=16,
)


def save_tokenizer(folder: Path) -> None:
    """BERT's tokenizer of a few words."""
    words = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
    settings = dict(tokenizer_class='BertTokenizer', do_lower_case=True)
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))


def make_bert(folder: Path, kind: str = 'BertModel', seed: int = 0, **config) -> Path:
    """Write tokenizer, config and random weights.

    Args:
        folder: Where.
        kind: Class of transformers.
        seed: Of the weights.
        config: In place of ``SMALL``.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    sizes = {**SMALL, **config, 'vocab_size': len(SPECIAL) + len(WORDS)}
    config_class = getattr(transformers, kind).config_class
    with seeded(seed):
        model = getattr(transformers, kind)(config_class(**sizes))
        # Weights of a standard deviation of 0.02 make every layer nearly the same, and
        # normalisations as they begin leave no means or variances to compare.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
            else:
                parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def seeded(seed: int):
    """Draw from a seed, and leave the generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
