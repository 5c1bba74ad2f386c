"""What the softmax of attention is taken of, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Scores:
    """Queries and keys of one layer's attention, and what is made of them.

    transformers hands out probabilities alone, after dropout, and those only where its
    slowest implementation runs; the linear layers that make queries and keys are the
    same in all of them.

    Args:
        layer: Of BERT or MobileBERT.
    """

    def __init__(self, layer: Any) -> None:
        self.attention = layer.attention.self
        self._made: dict[str, Tensor] = {}

    def watch(self, stack: ExitStack) -> None:
        """Keep queries and keys as they are made, until the stack is left.

        Args:
            stack: Takes the hooks away.
        """
        for name in ('query', 'key'):
            module: nn.Module = getattr(self.attention, name)

            def keep(module: Any, args: Any, output: Tensor, name: str = name) -> None:
                self._made[name] = output

            stack.callback(module.register_forward_hook(keep).remove)

    def read(self) -> Tensor:
        """Products of queries and keys over the root of their length, (B, H, T, T)."""
        heads = self.attention.num_attention_heads
        query, key = (
            x.unflatten(-1, (heads, -1)).transpose(1, 2)
            for x in (self._made['query'], self._made['key'])
        )
        kind = query.device.type
        with torch.autocast(kind, enabled=False):  # products of halves overflow
            query = query.to(torch.promote_types(query.dtype, torch.float32))
            key = key.to(query.dtype).transpose(-1, -2)
            return (query / math.sqrt(query.shape[-1])) @ key


@contextmanager
def recorded_scores(layers: Sequence[nn.Module]) -> Iterator[list[Scores]]:
    """Record the attention of some layers inside a ``with`` block.

    Args:
        layers: Of BERT or MobileBERT.
    """
    scores = [Scores(layer) for layer in layers]
    with ExitStack() as stack:
        for one in scores:
            one.watch(stack)
        yield scores
