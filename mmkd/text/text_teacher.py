"""Teachers of text encoders: from a folder, the hub, or a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..compat.checkpoint import load_file
from ..config import load_config
from ..teacher import Teacher
from ..teacher_loading import load_strictly, local_path, state_dict_of
from .bert import BertModel
from .encoder import TextEncoder
from .hub import from_hub, transformers
from .masked_lm import MaskedLMHead

#: Where detectors keep their language model.
PREFIX = 'language_model.'
_KNOWN = {'name', 'config', 'checkpoint', 'trust'}


class TextTeacher(nn.Module):
    """A text encoder, and its head for masked words if it has one.

    Args:
        encoder: The encoder.
        head: Its head, or ``None``.
        words: Word -> number, of its tokenizer.
        phrases: Special tokens that end the phrases of its masks, none if it knows no
            such masks; ``None`` if it is not known what it knows.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        head: MaskedLMHead | None,
        words: Mapping[str, int],
        phrases: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.words = words
        self.phrases = phrases


def build_text_teacher(entry: Any) -> Teacher:
    """The teacher that an entry names, weights loaded.

    Args:
        entry: A folder or name of the hub, in the format of transformers; or
            ``dict(config=..., checkpoint=...)`` of a detector, whose own encoder it is,
            or of a run of mmkd; a name of the zoo as ``config`` brings its weights, and
            ``name`` beside it is the folder with its tokenizer where the hub is out of
            reach.

    Returns:
        A :class:`~mmkd.teacher.Teacher` of a :class:`TextTeacher`.

    Raises:
        FileNotFoundError: If there is no such folder, name or file.
        TypeError: If the entry is of another type.
        ValueError: If it says too much or too little, or its weights do not fit.
    """
    if isinstance(entry, str):
        entry = dict(name=entry)
    if not isinstance(entry, Mapping):
        raise TypeError(
            'teacher must be a folder, a name of the hub, or dict(config=..., '
            f'checkpoint=...) but is a {type(entry).__name__}'
        )
    unknown = sorted(set(entry) - _KNOWN)
    if unknown or not ('name' in entry or 'config' in entry):
        raise ValueError(
            'teacher must have a name, or a config and a checkpoint, but has '
            f'{unknown or sorted(entry)}'
        )
    if 'config' not in entry:
        name = str(entry['name'])
        model: Any = BertModel(name, max_tokens=1)
        source, head, phrases = name, _head_of(name, model.encoder), None
    else:
        model, source = _of_a_config(entry)
        head = None
        phrases = model.special_tokens if model.use_sub_sentence_represent else []
    words = model.tokenizer.get_vocab()
    return Teacher(TextTeacher(model.encoder, head, words, phrases), source)


def _head_of(name: str, encoder: TextEncoder) -> MaskedLMHead | None:
    """The head for masked words that a folder holds, if it does."""
    library = transformers()
    config = from_hub(library.AutoConfig.from_pretrained, name, 'a config')
    if not any(
        'MaskedLM' in a or 'PreTraining' in a for a in config.architectures or ()
    ):
        return None
    whole: Any = from_hub(library.BertForMaskedLM.from_pretrained, name, 'its head')
    whole = whole.float()
    head = MaskedLMHead(encoder.model)
    state = whole.cls.predictions.state_dict()
    own = {k: v for k, v in state.items() if k in head.state_dict()}
    load_strictly(head, own, (), name)
    return head


def _of_a_config(entry: Mapping[str, Any]) -> tuple[Any, str]:
    cfg = load_config(entry['config'])
    checkpoint = entry.get('checkpoint') or cfg.get('model_path')
    if not checkpoint:
        raise ValueError(
            'teacher has no weights: name a file by dict(config=..., checkpoint=...)'
        )
    model_cfg = dict(cfg.model)
    text, prefix = model_cfg.get('language_model'), PREFIX
    if text is None:  # a run of mmkd, or its export
        text, prefix = model_cfg.get('student', model_cfg), ''
    text = {**text, **({'name': entry['name']} if 'name' in entry else {})}
    if text.get('type') in ('BertModel', 'mmdet.BertModel'):
        text['type'] = 'mmkd.BertModel'
    if not str(text.get('type')).startswith('mmkd.'):
        raise ValueError(
            f'the config of the teacher must have a language model of type BertModel '
            f'but has {text.get("type")}'
        )
    model: Any = ROOT_MODELS.build(text)
    path = local_path(str(checkpoint))
    contents = load_file(path, map_location='cpu', trust=entry.get('trust', False))
    state = state_dict_of(contents, path)
    own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not own:
        raise ValueError(f'{checkpoint} has no weights that begin with {prefix!r}')
    load_strictly(model, own, (), str(checkpoint))
    print_log(f'mmkd: the text encoder of {checkpoint}', logger='current')
    return model, str(checkpoint)
