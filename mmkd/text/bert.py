"""BERT with the interface of MMDetection's language models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..registry import MODELS
from .encoder import TextEncoder
from .hub import from_hub, load_weights, transformers
from .masks import phrase_masks


@MODELS.register_module()
class BertModel(BaseModel):
    """BERT for Grounding DINO and GLIP, on transformers 4.57 and 5.

    It takes the place of MMDetection's ``BertModel``, which does not run with version
    5: the same arguments, outputs and keys, so that checkpoints of the zoo load.

    Args:
        name: Folder with tokenizer, config and weights in the format of transformers,
            or their name on the Hugging Face Hub.
        max_tokens: Longer texts are cut off.
        pad_to_max: Whether texts are padded to ``max_tokens``, not to the longest.
        use_sub_sentence_represent: Whether the tokens of a phrase see each other
            alone; see :func:`~mmkd.text.masks.phrase_masks`.
        special_tokens_list: Tokens that end a phrase.
        add_pooling_layer: Whether to add the pooler, which nothing here uses; ``None``
            for one if ``name`` has it.
        num_layers_of_embedded: Last layers whose mean is the embedding.
        use_checkpoint: Whether layers are computed again in the backward pass, which
            takes less memory.
        kwargs: ``init_cfg`` and ``data_preprocessor`` of MMEngine's ``BaseModel``.

    Attributes:
        name: As given.
        tokenizer: Of transformers.
        language_backbone: With the :class:`~mmkd.text.encoder.TextEncoder` as ``body``.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        ImportError: If transformers is not installed.
        ValueError: If phrases are asked for without tokens that end them, texts are
            padded to more tokens than there are positions, there are not as many
            layers, or the weights are those of another model.
    """

    def __init__(
        self,
        name: str = 'bert-base-uncased',
        max_tokens: int = 256,
        pad_to_max: bool = True,
        use_sub_sentence_represent: bool = False,
        special_tokens_list: Sequence[str] | None = None,
        add_pooling_layer: bool | None = False,
        num_layers_of_embedded: int = 1,
        use_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = str(name)
        self.max_tokens = max_tokens
        self.pad_to_max = pad_to_max
        self.tokenizer = from_hub(
            transformers().AutoTokenizer.from_pretrained, name, 'a tokenizer'
        )
        network = self._network(name, add_pooling_layer)
        places, layers = (
            getattr(network.config, key)
            for key in ('max_position_embeddings', 'num_hidden_layers')
        )
        # Those of phrases begin anew with each, however long the text.
        if pad_to_max and not use_sub_sentence_represent and max_tokens > places:
            raise ValueError(
                f'max_tokens must be at most {places}, the positions of {name}, but is '
                f'{max_tokens}'
            )
        if not 1 <= num_layers_of_embedded <= layers:
            raise ValueError(
                f'num_layers_of_embedded must be from 1 to {layers}, the layers of '
                f'{name}, but is {num_layers_of_embedded}'
            )
        body = TextEncoder(
            network,
            num_layers_of_embedded,
            use_checkpoint,
            self._out_dim,
        )
        self.language_backbone = nn.Sequential(OrderedDict(body=body))
        self.use_sub_sentence_represent = use_sub_sentence_represent
        if use_sub_sentence_represent:
            if not special_tokens_list:
                raise ValueError(
                    'use_sub_sentence_represent needs special_tokens_list, the tokens '
                    "that end a phrase: ['[CLS]', '[SEP]', '.', '?'] in Grounding DINO"
                )
            self.special_tokens = self.tokenizer.convert_tokens_to_ids(
                list(special_tokens_list)
            )

    _out_dim: int | None = None

    def _network(self, name: str, add_pooling_layer: bool | None) -> Any:
        return load_weights(transformers().BertModel, name, add_pooling_layer)

    @property
    def encoder(self) -> TextEncoder:
        """What encodes tokens."""
        return self.language_backbone.body  # type: ignore[return-value]

    def forward(
        self, captions: Sequence[str] | Mapping[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Encode texts.

        Args:
            captions: Texts, or their tokens as :meth:`tokenize` returns them.
            kwargs: Ignored, as by MMDetection's.

        Returns:
            See :class:`~mmkd.text.encoder.TextEncoder`; with phrases
            ``text_token_mask`` (B, T), what is no padding, and ``position_ids``, too.
        """
        x = self.inputs_of(self.tokens_of(captions))
        features = self.language_backbone(x)
        if self.use_sub_sentence_represent:
            for key in ('position_ids', 'text_token_mask'):
                features[key] = x[key]
        return features

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Tokens of texts, each (B, T), on the device of the weights.

        Args:
            captions: Texts.
        """
        tokens = self.tokenizer(
            [captions] if isinstance(captions, str) else list(captions),
            max_length=self.max_tokens,
            padding='max_length' if self.pad_to_max else 'longest',
            return_tensors='pt',
            truncation=True,
        )
        return dict(tokens.to(next(self.language_backbone.parameters()).device))

    def tokens_of(
        self, captions: Sequence[str] | Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Tokens of texts, or the tokens.

        Args:
            captions: Either.
        """
        return captions if isinstance(captions, Mapping) else self.tokenize(captions)

    def inputs_of(self, tokens: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the encoder is given for tokens: masks and positions.

        Args:
            tokens: ``input_ids`` and ``attention_mask``, each (B, T).

        Returns:
            See :meth:`mmkd.text.encoder.TextEncoder.forward`.

        Raises:
            ValueError: If a text, or a phrase, is longer than there are positions.
        """
        ids, mask = tokens['input_ids'], tokens['attention_mask']
        valid = dict(input_ids=ids, text_token_mask=mask.bool())
        if not self.use_sub_sentence_represent:
            # The kind of a token is always the first one here.
            self._check_length('text', ids.shape[1])
            return dict(valid, attention_mask=mask)
        pairs, positions = phrase_masks(ids, self.special_tokens)
        places = self.encoder.model.config.max_position_embeddings
        if ids.shape[1] > places:  # or no phrase can be longer
            self._check_length('phrase', int(positions.max()) + 1)
        kinds = tokens.get('token_type_ids', torch.zeros_like(ids))
        return dict(
            valid, attention_mask=pairs, position_ids=positions, token_type_ids=kinds
        )

    def _check_length(self, what: str, tokens: int) -> None:
        places = self.encoder.model.config.max_position_embeddings
        if tokens > places:
            raise ValueError(
                f'a {what} must have at most {places} tokens, the positions of the '
                f'text encoder, but has {tokens}: lower max_tokens'
            )
