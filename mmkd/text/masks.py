"""Which tokens of a text see which others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def phrase_masks(
    input_ids: Tensor, special_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Let the tokens of a phrase see each other and no other phrase.

    A phrase ends with a special token, such as the full stops of 'cat . dog .' or
    [SEP]; the first and the last token of a text, and what comes after the last special
    token, see themselves alone. These are the masks of MMDetection's
    ``generate_masks_with_special_tokens_and_transfer_map``, made without a loop.

    Reference:
        Liu et al., Grounding DINO, ECCV 2024, https://arxiv.org/abs/2303.05499
        (sub-sentence level representation)

    Args:
        input_ids: Tokens, (B, T).
        special_ids: Those that end a phrase.

    Returns:
        Pairs of a query and a key that it sees, (B, T, T), of ``bool``; the position of
        every token in its phrase, (B, T).

    Example:
        >>> ids = torch.tensor([[101, 7, 8, 1012, 9, 1012, 102]])
        >>> pairs, positions = phrase_masks(ids, [101, 102, 1012])
        >>> positions
        tensor([[0, 0, 1, 2, 0, 1, 0]])
        >>> pairs[0, 2].int()
        tensor([0, 1, 1, 1, 0, 0, 0], dtype=torch.int32)
    """
    tokens = input_ids.shape[1]
    index = torch.arange(tokens, device=input_ids.device).expand_as(input_ids)
    special = torch.isin(input_ids, input_ids.new_tensor(list(special_ids)))
    ends = index.masked_fill(~special, tokens).flip(1).cummin(1).values.flip(1)
    before = index.masked_fill(~special, 0).cummax(1).values.roll(1, 1)
    # The first token is no part of a phrase, nor is what the last one would end.
    inside = (ends < tokens - 1) & (index > 0)
    positions = (index - before - 1).masked_fill(~inside, 0)
    same = (ends[:, :, None] == ends[:, None, :]) & inside[:, :, None]
    itself = torch.eye(tokens, dtype=torch.bool, device=input_ids.device)
    return (same & inside[:, None, :]) | itself, positions


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores.

    Args:
        mask: Tokens that are seen, (B, T), or pairs, (B, T, T).
        dtype: Of the scores.

    Returns:
        0 where a key is seen and the lowest number where not, (B, 1, 1 or T, T).

    Example:
        >>> additive_mask(torch.tensor([[1, 0]]), torch.float16)[0, 0, 0].tolist()
        [0.0, -65504.0]
    """
    seen = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    zeros = torch.zeros(seen.shape, dtype=dtype, device=mask.device)
    # Without normalisation scores have no bound: nothing less would be sure.
    return zeros.masked_fill(~seen.bool(), torch.finfo(dtype).min)
