"""The valuable localization region: against loops, ATSS's positives, and by hand."""

import math

import numpy as np
import pytest
import torch

from mmkd.losses import valuable_localization_region

MUTATIONS = {
    'no std': ('overlaps.mean(0) + deviation', 'overlaps.mean(0)'),
    'minus std': ('mean(0) + deviation', 'mean(0) - deviation'),
    'std of the population': ('overlaps.std(0)', 'overlaps.std(0, unbiased=False)'),
    'gamma of 1 is the upper end': ('gamma * alpha_pos', 'alpha_pos / 2'),
    'no gamma': ('diou >= gamma * alpha_pos', 'diou >= 0'),
    'no upper end': (' & (diou < alpha_pos)', ''),
    'IoU, not DIoU': ('iou - distance /', 'iou - 0 * distance /'),
    'weighted by DIoU': ('iou.masked_fill', 'diou.masked_fill'),
    'weight of any object': ('masked_fill(~inside, 0.0)', 'clone()'),
    'the farthest are candidates': ('_candidates(distance', '_candidates(-distance'),
    'all levels are one': (
        'distance.sqrt(), num_level_priors',
        'distance.sqrt(), [len(priors)]',
    ),
    'one candidate less': ('num_level_priors, topk))', 'num_level_priors, topk - 1))'),
}


def iou_and_diou(a, b) -> tuple[float, float]:
    """Of two boxes x1, y1, x2, y2; 0 where no area is covered."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    union = areas - width * height
    iou = width * height / union if union > 0 else 0.0
    between = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    hull_width = max(a[2], b[2]) - min(a[0], b[0])
    hull_height = max(a[3], b[3]) - min(a[1], b[1])
    diagonal = hull_width**2 + hull_height**2
    return iou, iou - (between / diagonal if diagonal > 0 else 0.0)


def candidates(priors, sizes, box, topk) -> list[int]:
    """The priors of every level with the nearest centres."""
    found, start = [], 0
    for size in sizes:
        distances = []
        for index in range(start, start + size):
            x = priors[index][0] + priors[index][2] - box[0] - box[2]
            y = priors[index][1] + priors[index][3] - box[1] - box[3]
            distances.append((math.hypot(x, y), index))
        found += [index for _, index in sorted(distances)[:topk]]
        start += size
    return found


def threshold(priors, sizes, box, topk=9) -> float:
    """ATSS's: mean + sample standard deviation of the candidates' IoU."""
    values = [
        iou_and_diou(priors[i], box)[0] for i in candidates(priors, sizes, box, topk)
    ]
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return mean + (math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0)


def reference(priors, sizes, boxes, topk=9, gamma=0.25):
    """Mask and weight of every prior, by the definition."""
    mask, weight = np.zeros(len(priors), bool), np.zeros(len(priors))
    for box in boxes if len(priors) else ():
        upper = threshold(priors, sizes, box, topk)
        for index, prior in enumerate(priors):
            iou, diou = iou_and_diou(prior, box)
            if gamma * upper <= diou < upper:
                mask[index] = True
                weight[index] = max(weight[index], iou)
    return mask, weight


def random_boxes(random, count, size, spread) -> np.ndarray:
    centres = random.uniform(0, 64, (count, 2))
    sides = size * random.uniform(1 / spread, spread, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], 1)


def random_case(seed):
    """Priors of two to four levels in the square of 64 pixels, one to four objects."""
    random = np.random.default_rng(seed)
    sizes = [int(random.integers(5, 40)) for _ in range(random.integers(2, 5))]
    priors = np.concatenate(
        [random_boxes(random, n, 8 * 2**i, 1.1) for i, n in enumerate(sizes)]
    )
    boxes = random_boxes(random, random.integers(1, 5), 16, 2.5)
    return priors, sizes, boxes


def check(function, priors, sizes, boxes, **options) -> int:
    """Compare in float64; the size of the region."""
    mask, weight = function(
        torch.tensor(priors), sizes, torch.tensor(boxes).reshape(-1, 4), **options
    )
    expected_mask, expected_weight = reference(priors, sizes, boxes, **options)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), expected_mask)
    np.testing.assert_allclose(weight.numpy(), expected_weight, rtol=1e-6)
    return int(mask.sum())


def mutated(old: str, new: str):
    # It imports the tests of all methods, some of which import this file.
    from test_mutations import mutate

    return mutate(valuable_localization_region, old, new)


def check_all(function) -> None:
    for seed in range(25):
        check(function, *random_case(seed))


@pytest.mark.parametrize('seed', range(25))
def test_equals_the_definition(seed):
    case = random_case(seed)
    found = check(valuable_localization_region, *case)
    assert found < len(case[0])


def test_the_random_cases_hold_regions():
    counts = [reference(*random_case(seed))[0].sum() for seed in range(25)]
    assert sum(count > 0 for count in counts) >= 20


@pytest.mark.parametrize('topk', [1, 2, 5, 9, 1000])
@pytest.mark.parametrize('gamma', [0.0, 0.25, 0.5, 1.0])
def test_equals_the_definition_for_other_arguments(topk, gamma):
    for seed in range(5):
        check(valuable_localization_region, *random_case(seed), topk=topk, gamma=gamma)


@pytest.mark.parametrize('mutation', MUTATIONS)
def test_the_definition_notices(mutation):
    mutant = mutated(*MUTATIONS[mutation])
    with pytest.raises(AssertionError):
        check_all(mutant)


def test_compiled_anew_it_is_the_same():
    check_all(mutated('return', 'return'))


def test_a_larger_gamma_makes_a_smaller_region_and_1_an_empty_one():
    priors, sizes, boxes = (torch.tensor(x) for x in random_case(1))
    masks = [
        valuable_localization_region(priors, sizes.tolist(), boxes, gamma=gamma)[0]
        for gamma in (0.0, 0.25, 0.6, 1.0)
    ]
    counts = [int(mask.sum()) for mask in masks]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0
    assert all((small <= large).all() for large, small in zip(masks, masks[1:]))


def test_an_example_by_hand():
    # IoU with the box: 1, 1/3, 1/7, 0 (touching); mean 31/84 and deviation 0.4409
    # make alpha_pos 0.8099. DIoU = IoU - (distance / diagonal)^2: 1/3 - 16 / 208 is
    # above alpha_pos / 4, 1/7 - 36 / 260 is not.
    priors = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8], [6, 0, 14, 8], [8, 0, 16, 8]])
    mask, weight = valuable_localization_region(
        priors, [4], torch.tensor([[0.0, 0, 8, 8]])
    )
    assert mask.tolist() == [False, True, False, False]
    assert weight.tolist() == pytest.approx([0, 1 / 3, 0, 0])
    # alpha_pos = 0.8099 times 0.3166 is the DIoU of the second prior.
    for gamma, inside in ((0.316, True), (0.317, False)):
        mask, _ = valuable_localization_region(
            priors, [4], torch.tensor([[0.0, 0, 8, 8]]), gamma=gamma
        )
        assert mask[1].item() is inside


def test_the_weight_is_that_of_an_object_whose_region_holds_the_prior():
    """A prior that covers one object exactly is in the region of another alone."""
    far = [[30.0, 30, 38, 38], [40, 40, 48, 48]]
    priors = torch.tensor([[0.0, 0, 8, 8], [2, 0, 10, 8], *far])
    boxes = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8]])
    mask, weight = valuable_localization_region(priors, [4], boxes)
    expected_mask, expected = reference(priors.tolist(), [4], boxes.tolist())
    assert mask.tolist() == expected_mask.tolist()
    # Its IoU with the first object is 1, which lies above alpha_pos.
    assert mask[0].item() is True
    assert weight[0].item() == pytest.approx(1 / 3)
    assert weight.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize('boxes', [0, 3])
@pytest.mark.parametrize('priors', [0, 7])
def test_nothing_gives_an_empty_region(priors, boxes):
    sizes = [priors, 0]
    mask, weight = valuable_localization_region(
        torch.zeros(priors, 4), sizes, torch.zeros(boxes, 4)
    )
    assert mask.shape == weight.shape == (priors,)
    assert mask.dtype == torch.bool
    assert not mask.any()
    assert weight.abs().sum() == 0


def test_a_level_without_priors_changes_nothing():
    priors, sizes, boxes = random_case(2)
    args = torch.tensor(priors), torch.tensor(boxes)
    one = valuable_localization_region(args[0], sizes, args[1])
    other = valuable_localization_region(args[0], [0, *sizes, 0], args[1])
    assert one[0].any()
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_a_single_prior_has_no_deviation():
    """Its threshold is its IoU: it is in the region unless it is concentric."""
    box = torch.tensor([[0.0, 0, 8, 8]])
    for prior, inside in (([1.0, 0, 9, 8], True), ([1.0, 1, 7, 7], False)):
        mask, weight = valuable_localization_region(torch.tensor([prior]), [1], box)
        iou, diou = iou_and_diou(prior, [0, 0, 8, 8])
        assert (iou / 4 <= diou < iou) is inside
        assert mask.tolist() == [inside]
        assert weight.tolist() == pytest.approx([iou if inside else 0.0])


def test_boxes_without_an_area_are_in_no_region():
    point, line = [5.0, 5, 5, 5], [2.0, 3, 9, 3]
    priors = np.array([[0.0, 0, 8, 8], [2, 0, 10, 8], point, line, [3.1, 1, 9, 7]])
    boxes = np.array([[1.0, 0, 9, 8], point, line])
    assert check(valuable_localization_region, priors, [3, 2], boxes) > 0
    mask, weight = valuable_localization_region(
        torch.tensor(priors), [3, 2], torch.tensor(boxes[1:])
    )
    assert not mask.any()
    assert weight.isfinite().all()


def test_more_candidates_than_priors_are_all_of_them():
    priors, sizes, boxes = random_case(3)
    largest = max(sizes)
    args = torch.tensor(priors), sizes, torch.tensor(boxes)
    all_of_them = valuable_localization_region(*args, topk=largest)
    more = valuable_localization_region(*args, topk=largest + 50)
    fewer = valuable_localization_region(*args, topk=2)
    assert torch.equal(all_of_them[0], more[0])
    assert not torch.equal(all_of_them[0], fewer[0])


@pytest.mark.parametrize('seed', range(10))
def test_the_threshold_is_that_of_the_stock_assigner(seed):
    """Its positives are the candidates above it that have their centre inside."""
    from mmdet.models.task_modules.assigners import ATSSAssigner
    from mmengine.registry import DefaultScope
    from mmengine.structures import InstanceData

    priors, sizes, boxes = random_case(seed)
    box = boxes[:1]
    with DefaultScope.overwrite_default_scope('mmdet'):
        assigner = ATSSAssigner(topk=9)
    result = assigner.assign(
        InstanceData(priors=torch.tensor(priors)),
        sizes,
        InstanceData(bboxes=torch.tensor(box), labels=torch.zeros(1, dtype=int)),
    )
    positives = set(result.gt_inds.nonzero().flatten().tolist())
    upper = threshold(priors, sizes, box[0])
    expected = set()
    for index in candidates(priors, sizes, box[0], 9):
        x, y = (priors[index][:2] + priors[index][2:]) / 2
        sides = x - box[0][0], y - box[0][1], box[0][2] - x, box[0][3] - y
        if iou_and_diou(priors[index], box[0])[0] >= upper and min(sides) > 0.01:
            expected.add(index)
    assert positives == expected
    mask, _ = valuable_localization_region(
        torch.tensor(priors), sizes, torch.tensor(box)
    )
    for index in range(len(priors)):
        iou, diou = iou_and_diou(priors[index], box[0])
        assert mask[index].item() is bool(upper / 4 <= diou < upper)
        if index in positives:
            assert iou >= upper


def test_the_order_of_objects_and_of_priors_does_not_matter():
    priors, sizes, boxes = random_case(4)
    assert len(boxes) > 1
    priors, boxes = torch.tensor(priors), torch.tensor(boxes)
    mask, weight = valuable_localization_region(priors, sizes, boxes)
    order = torch.cat(
        [
            part[torch.randperm(len(part))]
            for part in torch.arange(len(priors)).split(sizes)
        ]
    )
    shuffled = valuable_localization_region(priors[order], sizes, boxes.flip(0))
    assert mask.any()
    assert torch.equal(shuffled[0], mask[order])
    assert torch.equal(shuffled[1], weight[order])


def test_objects_are_united():
    priors, sizes, boxes = random_case(4)
    priors, boxes = torch.tensor(priors), torch.tensor(boxes)
    apart = [valuable_localization_region(priors, sizes, box[None]) for box in boxes]
    mask, weight = valuable_localization_region(priors, sizes, boxes)
    assert torch.equal(mask, torch.stack([a for a, _ in apart]).any(0))
    assert torch.equal(weight, torch.stack([b for _, b in apart]).amax(0))


def test_units_do_not_matter():
    priors, sizes, boxes = random_case(5)
    base = valuable_localization_region(
        torch.tensor(priors), sizes, torch.tensor(boxes)
    )
    scaled = valuable_localization_region(
        torch.tensor(priors * 7 + 100), sizes, torch.tensor(boxes * 7 + 100)
    )
    assert base[0].any()
    assert torch.equal(scaled[0], base[0])
    torch.testing.assert_close(scaled[1], base[1])


def test_nothing_of_it_has_a_gradient():
    priors, sizes, boxes = random_case(1)
    priors, boxes = torch.tensor(priors), torch.tensor(boxes)
    mask, weight = valuable_localization_region(
        priors.requires_grad_(), sizes, boxes.requires_grad_()
    )
    assert mask.any()
    assert not weight.requires_grad


def test_rejects_what_does_not_fit():
    priors, box = torch.zeros(3, 4), torch.zeros(1, 4)
    with pytest.raises(
        ValueError, match=r'priors must have shape \(N, 4\) but .*\(3, 2\)'
    ):
        valuable_localization_region(priors[:, :2], [3], box)
    with pytest.raises(ValueError, match=r'gt_boxes must have shape .* but has \(4,\)'):
        valuable_localization_region(priors, [3], box[0])
    with pytest.raises(
        ValueError, match='must sum to the number of priors, 3, but .* 4'
    ):
        valuable_localization_region(priors, [3, 1], box)
