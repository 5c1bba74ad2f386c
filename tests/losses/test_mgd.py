"""MGD: the value against plain Python, the masks against what they promise."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from mmkd.batch import Batch
from mmkd.losses import MGDLoss, mgd_loss

FUNCTION = mgd_loss
CASES = [
    ((2, 3, 4, 5), None),
    ((1, 1, 1, 1), None),
    ((3, 2, 3, 4), [(3, 2), (1, 4), (0, 0)]),
]
MUTATIONS = {
    'not per image': ('max(len(rebuilt), 1)', '1'),
    'mean': ('.sum() / max(len(rebuilt), 1)', '.mean()'),
    'not squared': ('.square()', '.abs()'),
    'padding takes part': ('~mask.bool()', '(mask < 0)'),
}


def compare(function, shape, corners) -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, *shape, dtype=torch.float64)
    corners_ = corners or [shape[2:]] * shape[0]
    total = 0.0
    for n, (height, width) in enumerate(corners_):
        for c in range(shape[1]):
            for y in range(height):
                for x in range(width):
                    total += (s[n, c, y, x] - t[n, c, y, x]).item() ** 2
    mask = None
    if corners:
        mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
        for image, (height, width) in zip(mask, corners):
            image[:, :height, :width] = True
    expected = total / shape[0]
    assert function(s, t, mask).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('shape', 'corners'), CASES)
def test_equals_the_formula(shape, corners):
    compare(mgd_loss, shape, corners)


def prepared(channels: int = 4, levels: int = 2, **arguments) -> MGDLoss:
    maps = tuple(torch.zeros(2, channels, 8 >> k, 8 >> k) for k in range(levels))
    torch.manual_seed(0)
    loss = MGDLoss(**arguments)
    loss.prepare(maps, maps)
    return loss


def kept(loss: MGDLoss, images: int = 2) -> list[torch.Tensor]:
    """Which positions the convolutions were shown, of every level."""
    seen = []
    for generator in loss.generators:
        generator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss(*[tuple(torch.ones(images, 4, 8 >> k, 8 >> k) for k in range(2))] * 2)
    for generator in loss.generators:
        generator._forward_pre_hooks.clear()
    return seen


def test_is_the_sum_of_what_the_convolutions_rebuild():
    loss = prepared(loss_weight=0.5).eval()  # nothing is masked
    s, t = torch.randn(2, 3, 4, 8, 8)
    first, _, last = loss.generators[0]
    hidden = F.conv2d(s, first.weight, first.bias, padding=1).clamp(min=0)
    rebuilt = F.conv2d(hidden, last.weight, last.bias, padding=1)
    expected = 0.5 * ((rebuilt - t) ** 2).sum() / 3
    torch.testing.assert_close(loss(s, t), expected)
    assert first.kernel_size == last.kernel_size == (3, 3)


def test_positions_are_masked_in_all_channels_and_at_the_given_rate():
    for ratio in (0.0, 0.25, 0.65):
        loss = prepared(mask_ratio=ratio)
        shown = torch.cat([kept(loss, 40)[0] for _ in range(5)])
        assert torch.equal(shown.amax(1), shown.amin(1))
        assert shown.mean().item() == pytest.approx(1 - ratio, abs=0.02)


def test_masks_differ_between_images_levels_and_steps():
    loss = prepared()
    first, second = kept(loss), kept(loss)
    assert not torch.equal(first[0][0], first[0][1])
    assert not torch.equal(first[0][:, :, :4, :4], first[1])
    assert not torch.equal(first[0], second[0])


def test_no_other_random_number_changes():
    loss = prepared()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    kept(loss)
    assert torch.equal(torch.rand(3), expected)


def test_a_state_goes_on_with_the_same_masks():
    loss = prepared()
    kept(loss)
    other = prepared()
    torch.manual_seed(99)
    other.load_state_dict(copy.deepcopy(loss.state_dict()))
    for ours, theirs in zip(kept(loss), kept(other)):
        assert torch.equal(ours, theirs)


def test_two_ranks_draw_what_one_draws_for_the_joined_batch(monkeypatch):
    loss = prepared()
    loss.seed = 7
    whole = kept(loss, 4)
    halves = []
    for rank in range(2):
        monkeypatch.setattr('mmkd.rng.get_rank', lambda rank=rank: rank)
        loss.steps = 0
        halves.append(kept(loss, 2))
    for level, expected in enumerate(whole):
        assert torch.equal(torch.cat([half[level] for half in halves]), expected)


def test_padding_counts_for_nothing():
    sample = BaseDataElement(metainfo=dict(img_shape=(32, 16)))
    batch = Batch(torch.zeros(1, 3, 32, 32), [sample])
    loss = prepared(levels=1).eval()
    s, t = torch.randn(2, 1, 4, 8, 8)
    other = t.clone()
    other[..., 4:] += 5
    assert torch.equal(loss(s, t, batch), loss(s, other, batch))
    assert loss(s, t) != loss(s, other)


def test_other_widths_are_adapted_before_they_are_masked():
    torch.manual_seed(0)
    loss = MGDLoss()
    ours, theirs = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    loss.prepare(ours, theirs)
    assert loss.generators[0][0].in_channels == 5
    seen = []
    loss.generators[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss(ours, theirs)
    (adapted,) = loss.adapter((ours,))
    shown = seen[0].abs().sum(1, keepdim=True) > 0
    torch.testing.assert_close(seen[0], adapted * shown)


def test_without_a_dry_run_it_cannot_be_built():
    with pytest.raises(ValueError, match='MGDLoss makes its convolutions by a dry run'):
        MGDLoss().prepare(None, torch.zeros(1, 2, 3, 3))
    with pytest.raises(RuntimeError, match='made when the model is built'):
        MGDLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))


@pytest.mark.parametrize('ratio', [-0.1, 1.0])
def test_a_ratio_out_of_range_is_an_error(ratio):
    with pytest.raises(ValueError, match=rf'mask_ratio must be in \[0, 1\) .* {ratio}'):
        MGDLoss(mask_ratio=ratio)
