"""A text encoder of transformers, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .masks import additive_mask

_AS_IS = nullcontext()


class TextEncoder(nn.Module):
    """What MMDetection calls the body of a language model.

    The layers are run one after the other instead of by the model's own ``forward``,
    whose masks and outputs are different things in versions 4 and 5 of transformers.

    Args:
        model: Of transformers: ``embeddings`` and ``encoder.layer``, such as BERT's.
        num_layers_of_embedded: Last layers whose mean is the embedding.
        use_checkpoint: Whether layers are computed again in the backward pass.
        out_dim: Width that the output is projected to; ``None`` for the model's own.

    Attributes:
        language_dim: Width of the output.
    """

    def __init__(
        self,
        model: Any,
        num_layers_of_embedded: int = 1,
        use_checkpoint: bool = False,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.num_layers_of_embedded = num_layers_of_embedded
        self.use_checkpoint = use_checkpoint
        width = model.config.hidden_size
        self.language_dim = out_dim or width
        self.projection = nn.Linear(width, out_dim) if out_dim else None

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers."""
        return self.model.encoder.layer

    def forward(self, x: Mapping[str, Any]) -> dict[str, Tensor]:
        """Encode tokens.

        Args:
            x: ``input_ids`` (B, T), ``attention_mask`` (B, T) or (B, T, T),
                ``position_ids`` and ``token_type_ids`` (B, T) or ``None``, and
                ``text_token_mask`` (B, T), tokens that are no padding, where the
                attention mask is of pairs.

        Returns:
            ``embedded`` (B, T, C), 0 where a mask of tokens has padding; ``masks``, the
            attention mask; ``hidden``, the last layer's output.
        """
        mask = x['attention_mask']
        states = self.hidden_states(x)
        features = embedding(states, self.num_layers_of_embedded)
        hidden = states[-1]
        if self.projection is not None:
            features, hidden = self.projection(features), self.projection(hidden)
        if mask.dim() == 2:
            features = features * mask.unsqueeze(-1).float()
        return dict(embedded=features, masks=mask, hidden=hidden)

    def hidden_states(self, x: Mapping[str, Any], last: int | None = None) -> list:
        """Outputs of the embeddings and of every layer, each (B, T, C).

        Args:
            x: See :meth:`forward`.
            last: Layers to run; all if not given.
        """
        states = [self.embed(x)]
        mask = additive_mask(x['attention_mask'], states[0].dtype)
        for layer in self.layers[:last]:
            states.append(self.run_layer(layer, states[-1], mask))
        return states

    def run_layer(self, layer: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
        """Output of one layer.

        Args:
            layer: One of :attr:`layers`.
            hidden: Its input, (B, T, C).
            mask: See :func:`~mmkd.text.masks.additive_mask`.
        """
        with self._precision(hidden):
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                out = checkpoint(layer, hidden, mask, use_reentrant=False)
            else:
                out = layer(hidden, mask)
        return out[0] if isinstance(out, tuple) else out  # a tuple in version 4

    def _precision(self, hidden: Tensor) -> Any:
        """Full precision where features without normalisation exceed float16."""
        kind = hidden.device.type
        is_plain = getattr(self.model.config, 'normalization_type', '') == 'no_norm'
        is_half = torch.is_autocast_enabled(kind) and (
            torch.get_autocast_dtype(kind) == torch.float16
        )
        return torch.autocast(kind, enabled=False) if is_plain and is_half else _AS_IS

    def embed(self, x: Mapping[str, Any]) -> Tensor:
        """Output of the embeddings, (B, T, C).

        Args:
            x: See :meth:`forward`.
        """
        embeddings = self.model.embeddings
        places = {key: x.get(key) for key in ('position_ids', 'token_type_ids')}
        if not getattr(embeddings, 'trigram_input', False):
            return embeddings(input_ids=x['input_ids'], **places)
        return _of_trigrams(embeddings, x)


def embedding(states: Sequence[Tensor], count: int) -> Tensor:
    """What a detector reads of the outputs of layers, (B, T, C).

    Args:
        states: Outputs, (B, T, C) each.
        count: Last layers that it is made of.
    """
    # MMDetection divides a mean by the number of layers once more.
    return torch.stack(list(states[-count:]), 1).mean(1) / count


def _of_trigrams(embeddings: Any, x: Mapping[str, Any]) -> Tensor:
    """Embeddings of a MobileBERT whose words see the words beside them.

    transformers' own see padding, which changes the last token of a text, and what is
    in another phrase.
    """
    ids, mask = x['input_ids'], x['attention_mask']
    if mask.dim() == 2:
        beside = (mask[:, 1:] * mask[:, :-1]).bool()
    else:
        beside = mask.diagonal(1, 1, 2).bool()
    words = embeddings.word_embeddings(ids)
    seen = beside.to(words.dtype).unsqueeze(-1)
    after = F.pad(words[:, 1:] * seen, (0, 0, 0, 1))
    before = F.pad(words[:, :-1] * seen, (0, 0, 1, 0))
    inputs = embeddings.embedding_transformation(torch.cat([after, words, before], 2))
    positions, kinds = x.get('position_ids'), x.get('token_type_ids')
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if kinds is None:
        kinds = torch.zeros_like(ids)
    inputs = inputs + embeddings.position_embeddings(positions)
    inputs = inputs + embeddings.token_type_embeddings(kinds)
    return embeddings.dropout(embeddings.LayerNorm(inputs))
