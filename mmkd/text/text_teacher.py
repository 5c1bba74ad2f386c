"""Teachers of text encoders: from a folder, the hub, or a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..compat.checkpoint import load_file
from ..config import load_config
from ..resume_check import STATE_KEY
from ..teacher import Teacher
from ..teacher_loading import load_strictly, local_path, state_dict_of
from .bert import BertModel
from .encoder import TextEncoder
from .hub import from_hub, load_reported, transformers
from .masked_lm import MaskedLMHead
from .mobilebert import MobileBertModel

#: Where detectors keep their language model.
PREFIX = 'language_model.'
_KNOWN = {'name', 'config', 'checkpoint', 'trust'}
#: Where a checkpoint of mmkd keeps the head of a run.
_HEAD = 'head.'


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


def build_text_teacher(entry: Any, with_head: bool = True) -> Teacher:
    """The teacher that an entry names, weights loaded.

    Args:
        entry: A folder or name of the hub, in the format of transformers; or
            ``dict(config=..., checkpoint=...)`` of a detector, whose own encoder it is,
            or of a run of mmkd; a name of the zoo as ``config`` brings its weights, and
            ``name`` beside it is the folder with its tokenizer where the hub is out of
            reach. ``dict(name=..., checkpoint=...)`` is the encoder of a detector whose
            config is not at hand.
        with_head: Whether the head for masked words is wanted: that of the folder or
            name, or of a run of mmkd.

    Returns:
        A :class:`~mmkd.teacher.Teacher` of a :class:`TextTeacher`.

    Raises:
        FileNotFoundError: If there is no such folder, name or file.
        TypeError: If the entry is of another type.
        ValueError: If it says too much or too little, or its weights do not fit.
    """
    if isinstance(entry, (str, Path)):
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
    if 'config' in entry or 'checkpoint' in entry:
        model, source, head = _of_a_checkpoint(entry, with_head)
    else:
        source = str(entry['name'])
        model = _of_a_folder(source)
        head = _head_of(source, model.encoder) if with_head else None
    phrases = None
    if 'config' in entry:
        phrases = model.special_tokens if model.use_sub_sentence_represent else []
    words = model.tokenizer.get_vocab()
    return Teacher(TextTeacher(model.encoder, head, words, phrases), source)


def _of_a_folder(name: str) -> Any:
    kind: Any = (
        MobileBertModel if _config(name).model_type == 'mobilebert' else BertModel
    )
    return kind(name, pad_to_max=False, add_pooling_layer=None)


def _config(name: str) -> Any:
    return from_hub(transformers().AutoConfig.from_pretrained, name, 'a config')


def _head_of(name: str, encoder: TextEncoder) -> MaskedLMHead | None:
    """The head for masked words that a folder holds, if it does."""
    library, config = transformers(), _config(name)
    if not any(
        'MaskedLM' in a or 'PreTraining' in a for a in config.architectures or ()
    ):
        return None
    is_mobile = config.model_type == 'mobilebert'
    kind = library.MobileBertForMaskedLM if is_mobile else library.BertForMaskedLM
    whole, missing = load_reported(kind, name)
    head = MaskedLMHead(encoder.model)
    state = whole.float().cls.predictions.state_dict()
    own = {k: v for k, v in state.items() if k in head.state_dict()}
    if any(f'cls.predictions.{key}' in missing for key in own):
        return None  # the config promises more than there is
    load_strictly(head, own, (), name)
    return head


def _of_a_checkpoint(
    entry: Mapping[str, Any], with_head: bool
) -> tuple[Any, str, MaskedLMHead | None]:
    """Encoder, source and head of a detector, or of a run of mmkd."""
    checkpoint, text = entry.get('checkpoint'), None
    prefix = PREFIX
    if 'config' in entry:
        cfg = load_config(entry['config'])
        checkpoint = checkpoint or cfg.get('model_path')
        model_cfg = dict(cfg.model)
        text = model_cfg.get('language_model')
        if text is None:  # a run of mmkd, or its export
            text, prefix = model_cfg.get('student', model_cfg), ''
    if not checkpoint:
        raise ValueError(
            'teacher has no weights: name a file by dict(config=..., checkpoint=...)'
        )
    text = dict(text or dict(type='mmkd.BertModel', pad_to_max=False))
    if 'name' in entry:
        text['name'] = str(entry['name'])
    if text.get('type') in ('BertModel', 'mmdet.BertModel'):
        text['type'] = 'mmkd.BertModel'
    if not str(text.get('type')).startswith('mmkd.'):
        raise ValueError(
            f'the config of the teacher must have a language model of type BertModel '
            f'but has {text.get("type")}'
        )
    path = local_path(str(checkpoint))
    contents = load_file(path, map_location='cpu', trust=entry.get('trust', False))
    state = state_dict_of(contents, path)
    if 'config' not in entry and not any(k.startswith(PREFIX) for k in state):
        prefix = ''
    own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not own:
        raise ValueError(f'{checkpoint} has no weights that begin with {prefix!r}')
    # Configs of one detector say this and that of what nothing reads.
    text['add_pooling_layer'] = any('.pooler.' in key for key in own)
    model: Any = ROOT_MODELS.build(text)
    load_strictly(model, own, (), str(checkpoint))
    print_log(f'mmkd: the text encoder of {checkpoint}', logger='current')
    head = None
    if with_head and not prefix:
        head = _head_of_a_run(contents, model.encoder, str(checkpoint))
    if with_head and head is None and not text.get('structure'):
        head = _head_of(model.name, model.encoder)
    return model, str(checkpoint), head


def _head_of_a_run(
    contents: Any, encoder: TextEncoder, source: str
) -> MaskedLMHead | None:
    """The head that a run of mmkd has trained, if its checkpoint holds it."""
    learnt = (contents.get(STATE_KEY) or {}).get('transfer') or {}
    own = {k[len(_HEAD) :]: v for k, v in learnt.items() if k.startswith(_HEAD)}
    if not own:
        return None
    head = MaskedLMHead(encoder.model)
    load_strictly(head, own, (), source)
    return head
