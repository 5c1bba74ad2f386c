"""How near a text encoder is to its teacher, or how well it guesses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import feature_map_transfer
from .bert import BertModel
from .encoder import embedding
from .masked_lm import hide_words
from .transfer import Transfer


@torch.no_grad()
def judge(
    student: BertModel, transfer: Transfer, tokens: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """How near a student is to its teacher, text by text.

    Args:
        student: The student.
        transfer: With its teacher.
        tokens: ``input_ids`` and ``attention_mask``, each (B, T).

    Returns:
        Of every text ``cosine`` and ``relative_error`` of its embedded tokens, and
        ``layers``, the term of every layer's normalised features; without a teacher
        ``masked_lm`` and ``masked_accuracy``, means over its masked words.
    """
    if transfer.teacher is None:
        return _guesses(student, transfer, tokens)
    x = student.inputs_of(tokens)
    teacher = transfer.teacher.model.encoder
    ours, theirs = (e.hidden_states(x)[1:] for e in (student.encoder, teacher))
    count = teacher.num_layers_of_embedded
    read = [embedding(states, count) for states in (ours, theirs)]
    found = []
    for i, valid in enumerate(x['text_token_mask']):
        s, t = (features[i][valid].float() for features in read)
        layers = [
            feature_map_transfer(a[i : i + 1], b[i : i + 1], valid[None]).item()
            for a, b in zip(ours, theirs)
        ]
        found.append(
            dict(
                cosine=torch.cosine_similarity(s, t, dim=-1).mean().item(),
                relative_error=((s - t).norm() / t.norm()).item(),
                layers=layers,
            )
        )
    return found


def _guesses(
    student: BertModel, transfer: Transfer, tokens: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    special = getattr(student, 'special_tokens', ())
    words, guessed = hide_words(dict(tokens), student.tokenizer, 0, 0, special)
    hidden = student.encoder.hidden_states(student.inputs_of(words))[-1]
    found = []
    for i, places in enumerate(guessed):
        labels = tokens['input_ids'][i][places]
        logits = transfer.logits(student, hidden[i][places]).float()
        loss = F.cross_entropy(logits, labels)  # nan where no word is masked
        right = (logits.argmax(1) == labels).float().mean()
        found.append(dict(masked_lm=loss.item(), masked_accuracy=right.item()))
    return found
