"""Masks of phrases: against MMDetection's, and one by one."""

import pytest
import torch

import mmkd  # noqa: F401
from mmkd.text.masks import additive_mask, phrase_masks

CLS, SEP, DOT, ASK = 101, 102, 1012, 1029
SPECIAL = [CLS, SEP, DOT, ASK]


def stock_masks(ids):
    from mmdet.models.language_models.bert import (
        generate_masks_with_special_tokens_and_transfer_map,
    )

    return generate_masks_with_special_tokens_and_transfer_map(
        dict(input_ids=ids), SPECIAL
    )


@pytest.mark.parametrize('seed', range(12))
def test_equal_mmdetections(seed):
    """Texts that begin with [CLS], of any length, with padding and cut off."""
    generator = torch.Generator().manual_seed(seed)
    texts, tokens = 3, 3 + seed
    ids = torch.randint(1, 6, (texts, tokens), generator=generator)
    for special in (SEP, DOT, ASK):
        ids[torch.rand(texts, tokens, generator=generator) < 0.15] = special
    ids[:, 0] = CLS
    if seed % 2:
        ids[0, -1] = SEP
        ids[1, tokens // 2 :] = 0  # padding
    pairs, positions = phrase_masks(ids, SPECIAL)
    expected_pairs, expected_positions = stock_masks(ids)
    assert torch.equal(pairs, expected_pairs)
    assert torch.equal(positions, expected_positions)
    assert positions.dtype == expected_positions.dtype


def test_texts_do_not_reach_into_each_other():
    """MMDetection's go on where the text before ended, without [CLS]."""
    ids = torch.tensor([[7, 8, DOT, 9, DOT, 0], [7, 7, 7, 8, DOT, 0]])
    pairs, positions = phrase_masks(ids, [DOT])
    for i in range(2):
        alone, places = phrase_masks(ids[i : i + 1], [DOT])
        assert torch.equal(pairs[i : i + 1], alone)
        assert torch.equal(positions[i : i + 1], places)


def test_what_is_added_to_scores():
    mask = torch.tensor([[True, True, False]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        added = additive_mask(mask, dtype)
        assert added.shape == (1, 1, 1, 3)
        assert added.dtype == dtype
        assert added.isfinite().all()
        seen = (torch.randn(1, 2, 3, 3).to(dtype) + added).float().softmax(-1)
        assert (seen[..., 2] == 0).all()
    pairs = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    assert torch.equal(additive_mask(pairs, torch.float32)[:, 0] == 0, pairs)
