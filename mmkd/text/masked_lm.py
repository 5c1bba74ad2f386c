"""A masked language model on top of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..rng import image_generators

#: Share of the words that are guessed; of those: hidden, replaced by another word.
GUESSED, HIDDEN, REPLACED = 0.15, 0.8, 0.1


class MaskedLMHead(nn.Module):
    """Guesses words from what an encoder makes of their places.

    The words' own embeddings are its weights, with further columns where those are
    narrower than the encoder, as in MobileBERT.

    Args:
        encoder: A BERT or MobileBERT of transformers.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        config = encoder.config
        width, words = config.hidden_size, config.vocab_size
        dense = nn.Linear(width, width)
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.transform = nn.ModuleDict(dict(dense=dense, LayerNorm=norm))
        self.activation = ACT2FN[config.hidden_act]
        self.bias = nn.Parameter(torch.zeros(words))
        embedded = encoder.embeddings.word_embeddings.embedding_dim
        self.dense: nn.Linear | None = None
        std = config.initializer_range
        nn.init.normal_(dense.weight, std=std)
        nn.init.zeros_(dense.bias)
        if width > embedded:
            self.dense = nn.Linear(words, width - embedded, bias=False)
            nn.init.normal_(self.dense.weight, std=std)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits, (N, V).

        Args:
            hidden: Outputs of the encoder, (N, C).
            words: Embeddings of all words, (V, E).
        """
        x = self.activation(self.transform['dense'](hidden))
        x = self.transform['LayerNorm'](x)
        columns = [words.T] if self.dense is None else [words.T, self.dense.weight]
        return x @ torch.cat(columns) + self.bias


def hide_words(
    tokens: dict[str, Tensor],
    tokenizer: Any,
    seed: int,
    step: int,
    kept: Sequence[int] = (),
) -> tuple[dict[str, Tensor], Tensor]:
    """Hide some of the words, as BERT's authors do.

    Of 15 % of them 8 in 10 become [MASK], one another word, one stays as it is. What is
    drawn follows from seed, step and the text's place in the batch of all ranks.

    Reference:
        Devlin et al., BERT, NAACL 2019, https://arxiv.org/abs/1810.04805

    Args:
        tokens: ``input_ids`` and ``attention_mask``, each (B, T).
        tokenizer: Of transformers.
        seed: That of the run, the same on all ranks.
        step: Number of the step.
        kept: Tokens that are neither hidden nor put in the place of others, beside
            [CLS] and its like: those that end phrases.

    Returns:
        The tokens with words hidden; whether a word is to be guessed, (B, T).
    """
    ids = tokens['input_ids'].cpu().numpy().copy()
    kept = sorted({*tokenizer.all_special_ids, *kept})
    special = np.isin(ids, kept)
    words = np.setdiff1d(np.arange(len(tokenizer)), kept)
    generators = image_generators(seed, step, len(ids))
    guessed = np.zeros_like(special)
    for i, generator in enumerate(generators):
        ids[i], guessed[i] = _hide(
            ids[i], special[i], words, tokenizer.mask_token_id, generator
        )
    device = tokens['input_ids'].device
    hidden = dict(tokens, input_ids=torch.from_numpy(ids).to(device))
    return hidden, torch.from_numpy(guessed).to(device)


def _hide(
    ids: np.ndarray, special: np.ndarray, words: np.ndarray, mask: int, generator: Any
) -> tuple[np.ndarray, np.ndarray]:
    # Token by token, so that padding behind them changes nothing.
    choice, kind, other = generator.random((len(ids), 3)).T
    guessed = (choice < GUESSED) & ~special
    hidden = np.where(guessed & (kind < HIDDEN), mask, ids)
    replaced = guessed & (kind >= HIDDEN) & (kind < HIDDEN + REPLACED)
    return np.where(replaced, words[(other * len(words)).astype(int)], hidden), guessed
