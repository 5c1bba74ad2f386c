"""MobileBERT: deep, thin text encoders of bottleneck blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..registry import MODELS
from .bert import BertModel
from .hub import from_hub, load_weights, transformers

#: What of a structure follows from the tokenizer's model.
_OF_THE_VOCABULARY = (
    'vocab_size',
    'max_position_embeddings',
    'type_vocab_size',
    'pad_token_id',
)
#: Of a structure, what is counted.
_SIZES = {
    *('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'embedding_size'),
    *('intermediate_size', 'intra_bottleneck_size', 'num_feedforward_networks'),
}


@MODELS.register_module()
class MobileBertModel(BertModel):
    """MobileBERT for Grounding DINO and GLIP, or any encoder of its blocks.

    A block of MobileBERT narrows its input, attends, runs several small feed-forward
    networks, and widens the result again. As many layers, heads and channels between
    blocks as a BERT has make a student that needs no projection to be compared with it,
    and takes its place in a detector as it is.

    Reference:
        Sun et al., MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited
        Devices, ACL 2020, https://arxiv.org/abs/2004.02984

    Args:
        name: Folder, or name on the hub: of a MobileBERT with its weights, or, with a
            ``structure``, of any model whose tokenizer is used.
        structure: Arguments of transformers' ``MobileBertConfig``, for random weights;
            the vocabulary's are those of ``name``. An ``embedding_size`` of
            ``hidden_size`` without ``trigram_input`` makes the embeddings BERT's,
            which can be copied from it. ``key_query_shared_bottleneck=False`` with an
            ``intra_bottleneck_size`` above ``hidden_size`` is IB-BERT, the paper's
            teacher.
        out_dim: Width that the output is projected to, for a detector that needs
            another one than ``hidden_size``; ``None`` for no projection.
        kwargs: See :class:`~mmkd.text.bert.BertModel`.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        ImportError: If transformers is not installed.
        TypeError: If the structure has an entry that does not exist.
        ValueError: If its numbers do not fit each other.
    """

    def __init__(
        self,
        name: str = 'google/mobilebert-uncased',
        structure: Mapping[str, Any] | None = None,
        out_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        if out_dim is not None and (not isinstance(out_dim, int) or out_dim < 1):
            raise ValueError(f'out_dim must be at least 1, or None, but is {out_dim!r}')
        self._structure = structure
        self._out_dim = out_dim
        super().__init__(name, **kwargs)

    def _network(self, name: str, add_pooling_layer: bool | None) -> Any:
        if self._structure is None:
            return load_weights(transformers().MobileBertModel, name, add_pooling_layer)
        return build(name, self._structure, bool(add_pooling_layer))


def build(name: str, structure: Mapping[str, Any], pooler: bool = False) -> Any:
    """An encoder of MobileBERT's blocks with random weights.

    Args:
        name: Folder or name whose vocabulary it has.
        structure: See :class:`MobileBertModel`.
        pooler: Whether to add a pooler.

    Returns:
        A ``MobileBertModel`` of transformers.

    Raises:
        TypeError: If the structure has an entry that does not exist.
        ValueError: If its numbers do not fit each other.
    """
    library = transformers()
    vocabulary = from_hub(library.AutoConfig.from_pretrained, name, 'a config')
    _check_names(structure, library.MobileBertConfig)
    _check_sizes(structure)
    config = library.MobileBertConfig(
        **{key: getattr(vocabulary, key) for key in _OF_THE_VOCABULARY}, **structure
    )
    _check_numbers(config)
    model = library.MobileBertModel(config, add_pooling_layer=pooler)
    if config.use_bottleneck and not (
        config.use_bottleneck_attention or config.key_query_shared_bottleneck
    ):
        _widen_queries(model, config)
    if not config.trigram_input and config.embedding_size == config.hidden_size:
        model.embeddings = _bert_embeddings(config)
    return model


def _widen_queries(model: Any, config: Any) -> None:
    """Let queries and keys read what is between the blocks, as IB-BERT's do.

    transformers hands it to them, and makes them as wide as the inside of a block.
    """
    for layer in model.encoder.layer:
        attention = layer.attention.self
        for part in ('query', 'key'):
            linear = nn.Linear(config.hidden_size, attention.all_head_size)
            model._init_weights(linear)
            setattr(attention, part, linear)


def _bert_embeddings(config: Any) -> nn.Module:
    library = transformers()
    keys = (*_OF_THE_VOCABULARY, 'hidden_size', 'hidden_dropout_prob', 'layer_norm_eps')
    told = {key: getattr(config, key) for key in keys}
    # With its own initialisation; the rest is not kept.
    bert = library.BertConfig(**told, num_hidden_layers=0, num_attention_heads=1)
    return library.BertModel(bert, add_pooling_layer=False).embeddings


def _check_names(structure: Mapping[str, Any], config: Any) -> None:
    given = sorted(set(structure) & set(_OF_THE_VOCABULARY))
    if given:
        raise TypeError(
            f'structure must not have {given}, which are those of the model that name '
            'names'
        )
    unknown = sorted(set(structure) - set(config().to_dict()))
    if unknown:
        raise TypeError(
            'structure must have arguments of MobileBertConfig of transformers but has '
            f'{unknown}'
        )


def _check_sizes(structure: Mapping[str, Any]) -> None:
    for name in _SIZES & set(structure):
        size = structure[name]
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f'{name} of structure must be a whole number above 0 but is {size!r}'
            )


def _check_numbers(config: Any) -> None:
    inside, heads = config.true_hidden_size, config.num_attention_heads
    if inside % heads:
        name = 'intra_bottleneck_size' if config.use_bottleneck else 'hidden_size'
        raise ValueError(
            f'{name} of structure must be a multiple of num_attention_heads but they '
            f'are {inside} and {heads}'
        )
    from transformers.activations import ACT2FN

    if config.hidden_act not in ACT2FN:
        raise ValueError(
            'hidden_act of structure must be an activation of transformers, such as '
            f"'relu' or 'gelu', but is {config.hidden_act!r}"
        )
    if config.normalization_type not in ('no_norm', 'layer_norm'):
        raise ValueError(
            "normalization_type of structure must be 'no_norm' or 'layer_norm' but is "
            f'{config.normalization_type!r}'
        )
