"""Whether a student, its teacher and their texts fit each other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .bert import BertModel

#: What student and teacher have in common.
_SIZES = (
    *('num_hidden_layers', 'hidden_size', 'num_attention_heads'),
    *('vocab_size', 'max_position_embeddings'),
)


def check_pair(student: BertModel, teacher: Any) -> None:
    """Refuse a student that cannot be compared with its teacher.

    Args:
        student: The student.
        teacher: The :class:`~mmkd.teacher.Teacher` of a
            :class:`~mmkd.text.text_teacher.TextTeacher`.

    Raises:
        ValueError: If sizes, words or masks of the two are not the same.
    """
    if student.encoder.projection is not None:
        raise ValueError(
            'out_dim of the student must be None while it learns from a teacher, '
            'whose features are compared with what is projected; train the projection '
            'with the detector'
        )
    encoders = student.encoder, teacher.model.encoder
    for name in _SIZES:
        ours, theirs = (getattr(e.model.config, name) for e in encoders)
        if ours != theirs:
            raise ValueError(
                f'{name} of the student must be {theirs}, as of the teacher '
                f'{teacher.source}, so that layers can be compared, but is {ours}'
            )
    own_words, words = student.tokenizer.get_vocab(), teacher.model.words
    if own_words != words:
        other = next((w for w, i in words.items() if own_words.get(w) != i), '')
        raise ValueError(
            f'name of the student must have the words of its teacher {teacher.source} '
            f'under the same numbers, but has others, such as for {other!r}: give both '
            'the same tokenizer'
        )
    phrases = teacher.model.phrases
    own = student.special_tokens if student.use_sub_sentence_represent else None
    if phrases is not None and own != (phrases or None):
        raise ValueError(
            'use_sub_sentence_represent and special_tokens_list of the student must be '
            f'those of its teacher, {teacher.source}'
        )


def check_tokens(ids: Tensor, student: BertModel) -> None:
    """Refuse tokens of another tokenizer.

    Args:
        ids: (B, T), of a batch.
        student: What they are for.

    Raises:
        ValueError: If they do not fit.
    """
    words = student.encoder.model.config.vocab_size
    if ids.max() >= words:
        raise ValueError(
            'name of the data set must have the tokenizer of the student, which has '
            f'{words} words, but there is a token {ids.max().item()}'
        )
