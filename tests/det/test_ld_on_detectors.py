"""Localization distillation in a detector: against LDHead, and what must not matter."""

import copy

import pytest
import torch
from ld_ranks import LD, TERMS, batch, distilled, gfl, roughen
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from term_ranks import joined, prepared
from tiny_models import build, losses_of, tiny_gfl, total

from mmkd.batch import Batch
from mmkd.det.views import DenseHeadView
from mmkd.losses import valuable_localization_region
from mmkd.losses.head_rows import vlr_weights
from mmkd.taps import record

KD = 'mmkd.ClassificationDistillationLoss'
#: Sizes of the images and which of them have no objects.
BATCHES = {
    'two sizes': dict(),
    'other sizes': dict(shapes=((100, 130), (75, 64), (128, 90)), seed=1),
    'one without objects': dict(shapes=((96, 96), (64, 128)), seed=2, without=(0,)),
    'one image': dict(shapes=((160, 128),), seed=3),
}


@pytest.fixture(scope='module')
def student():
    return gfl(seed=1)


@pytest.fixture(scope='module')
def teacher():
    return gfl(24, seed=2)


@pytest.fixture(scope='module')
def model(student, teacher):
    """With all terms in their default normalisation; no test changes it."""
    return distilled(student, teacher)


def gradients(model, value) -> dict:
    """Gradients of a value in the student's parameters; zero where it has none."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(
        value, named.values(), retain_graph=True, allow_unused=True
    )
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found)
    }


def assert_equal_gradients(ours: dict, theirs: dict, rtol: float) -> None:
    """Relative to the largest of every parameter."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=rtol * largest, msg=name
        )


def with_ld_head(student):
    """The student with MMDetection's own distillation head and the same weights."""
    cfg = copy.deepcopy(tiny_gfl().model)
    ld = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = ROOT_MODELS.build(
            dict(
                cfg.bbox_head,
                type='LDHead',
                loss_ld=ld,
                train_cfg=cfg.train_cfg,
                test_cfg=cfg.test_cfg,
            )
        )
    head.load_state_dict(student.bbox_head.state_dict())
    twin = copy.deepcopy(student)
    twin.bbox_head = head
    return twin.train()


@pytest.mark.parametrize('kind', BATCHES)
@pytest.mark.parametrize('seed', [1, 5])
def test_the_paper_form_equals_mmdetections_own_head(seed, kind, teacher):
    student = gfl(seed=seed)
    raw = batch(**BATCHES[kind])
    term = dict(loss_ld=dict(type=LD, normalize='paper'))
    ours = distilled(student, teacher, term).train()
    theirs = with_ld_head(student)

    value = ours(**prepared(ours, raw), mode='loss')['loss_ld']
    data = prepared(theirs, raw)
    frozen = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        soft = frozen.bbox_head(frozen.extract_feat(data['inputs']))
    losses = theirs.bbox_head.loss(
        theirs.extract_feat(data['inputs']), soft, data['data_samples']
    )
    expected = sum(losses['loss_ld'])

    assert expected > 1e-2
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    ours, theirs = gradients(ours, value), gradients(theirs, expected)
    assert max(g.abs().max() for g in theirs.values()) > 1e-3
    assert_equal_gradients(ours, theirs, 1e-5)


def test_the_stock_losses_beside_it_are_the_students(student, model):
    raw = batch()
    stock, ours = losses_of(student, raw), losses_of(model, raw)
    for name, values in stock.items():
        assert all(torch.equal(a, b) for a, b in zip(ours[name], values))


def fresh(width: int, seed: int, initialised: bool):
    """GFL as it is built, with or without ``init_weights()``."""
    if initialised:
        return gfl(width, seed, rough=False)
    torch.manual_seed(seed)
    cfg = tiny_gfl(width).model
    cfg.backbone.norm_cfg = dict(type='GN', num_groups=4, requires_grad=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return ROOT_MODELS.build(cfg)


@pytest.mark.parametrize('weights', ['rough', 'before init', 'after init'])
def test_a_batch_repeated_gives_the_same_value(weights, student, teacher):
    if weights != 'rough':
        student = fresh(16, 1, weights == 'after init')
    model = distilled(student, teacher)
    raw = batch(seed=4)
    once, thrice = losses_of(model, raw), losses_of(model, joined(raw, raw, raw))
    for name in TERMS:
        assert once[name] > 1e-4
        torch.testing.assert_close(thrice[name], once[name], rtol=1e-4, atol=0)
        ours, theirs = (gradients(model, losses[name]) for losses in (thrice, once))
        assert_equal_gradients(ours, theirs, 1e-3)


@pytest.mark.parametrize('name', ['loss_ld', 'loss_vlr'])
def test_the_paper_form_grows_with_the_batch(name, student, teacher):
    model = distilled(student, teacher, {name: TERMS[name]}, normalize='paper')
    raw = batch(seed=4)
    once, thrice = losses_of(model, raw), losses_of(model, joined(raw, raw, raw))
    torch.testing.assert_close(thrice[name], 3 * once[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize('normalize', ['avg_factor', 'paper'])
def test_a_teacher_of_equal_weights_teaches_nothing(student, normalize):
    losses = dict(
        TERMS,
        loss_all=dict(type=KD, region='all'),
        loss_sigmoid=dict(type=KD, form='sigmoid'),
    )
    model = distilled(student, student, losses, normalize=normalize)
    found = losses_of(model, batch())
    for name in losses:
        assert found[name].abs() < 1e-9
        largest = max(g.abs().max() for g in gradients(model, found[name]).values())
        assert largest < 1e-5
    roughen(model, seed=9)
    assert all(losses_of(model, batch())[name] > 1e-3 for name in losses)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_finite_in_autocast_with_gradients(model, dtype):
    try:
        with torch.autocast('cpu', dtype):
            pass
    except RuntimeError as error:
        pytest.skip(f'this torch on the CPU: {error}')
    data = prepared(model, batch())
    model.train()
    exact = model(**copy.deepcopy(data), mode='loss')
    with torch.autocast('cpu', dtype):
        losses = model(**copy.deepcopy(data), mode='loss')
    for name in TERMS:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], exact[name], rtol=0.1, atol=0)
    found = gradients(model, sum(losses[name] for name in TERMS))
    assert all(g.isfinite().all() for g in found.values())
    assert all(
        found[f'bbox_head.gfl_{kind}.weight'].abs().max() > 1e-4
        for kind in ('cls', 'reg')
    )


@pytest.mark.parametrize('normalize', ['avg_factor', 'paper'])
def test_images_without_objects_give_a_differentiable_zero(student, teacher, normalize):
    model = distilled(student, teacher, normalize=normalize)
    losses = losses_of(model, batch(without=(0, 1)))
    for name in TERMS:
        assert losses[name].item() == 0
        assert all(g.abs().max() == 0 for g in gradients(model, losses[name]).values())
    total(losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert losses['ld_kl'] == losses['ld_share'] == 0


def test_an_image_without_objects_adds_nothing(model):
    """Its rows are in no region, so the others' sums and counts are all there is."""
    shapes = ((96, 128), (96, 128))
    one, with_empty = batch(shapes[:1]), batch(shapes, without=(1,))
    assert torch.equal(one['inputs'][0], with_empty['inputs'][0])
    alone, beside = losses_of(model, one), losses_of(model, with_empty)
    for name in TERMS:
        assert alone[name] > 1e-3
        torch.testing.assert_close(beside[name], alone[name], rtol=1e-4, atol=0)


def view_of(model, raw: dict):
    """The student's view of one step, and its batch."""
    data = prepared(model, raw)
    with record(model, {'bbox_head': DenseHeadView}) as taps:
        model.train()(**data, mode='loss')
    return taps['bbox_head'], Batch(data['inputs'], data['data_samples'])


def maps_of(view, rows) -> list[torch.Tensor]:
    """Values of rows as (N, H, W) per level, of heads with one prior per place."""
    images, start, maps = len(view.logits[0]), 0, []
    for height, width in view.sizes:
        count = images * height * width
        maps.append(rows[start : start + count].reshape(images, height, width))
        start += count
    assert start == len(rows)
    return maps


def test_levels_without_positives_add_nothing(model):
    view, step = view_of(model, batch(((96, 96),), seed=6))
    counts = [int(m.sum()) for m in maps_of(view, view.positives)]
    assert counts[0] > 0
    assert 0 in counts
    for options in (dict(normalize='paper'), dict(normalize='avg_factor')):
        twin = distilled(model_of(model), model.distiller.teacher.model, **options)
        losses = losses_of(twin, batch(((96, 96),), seed=6))
        found = gradients(twin, losses['loss_ld'] + losses['loss_kd'])
        assert all(g.isfinite().all() for g in found.values())
        for level, count in enumerate(counts):
            # The scale of a level is learned from the edges of that level alone.
            moved = found[f'bbox_head.scales.{level}.scale'].abs() > 0
            assert moved == (count > 0)


def model_of(model):
    """A stock GFL with the student's weights."""
    stock = gfl(seed=1)
    stock.load_state_dict(model.state_dict())
    return stock


@pytest.mark.parametrize('kind', ['two sizes', 'other sizes', 'one without objects'])
def test_the_region_of_a_batch_is_that_of_each_image(student, kind):
    raw = batch(**BATCHES[kind])
    view, step = view_of(student, raw)
    together = maps_of(view, vlr_weights(view, step))
    for image in range(len(raw['inputs'])):
        alone = {key: values[image : image + 1] for key, values in raw.items()}
        view, step = view_of(student, alone)
        apart = maps_of(view, vlr_weights(view, step))
        for whole, single in zip(together, apart):
            height, width = single.shape[1:]
            assert torch.equal(whole[image, :height, :width], single[0])
            # Where the batch is larger than the image there is only padding.
            outside = whole[image].clone()
            outside[:height, :width] = 0
            assert outside.abs().max() == 0
    assert sum(m.sum() for m in together) > 0


def test_the_region_is_that_of_the_function_on_gfls_anchors(student):
    view, step = view_of(student, batch(((96, 96), (96, 96)), seed=7))
    anchors, sizes = [], []
    for stride, (height, width) in zip((8, 16, 32, 64, 128), view.sizes):
        y, x = torch.meshgrid(
            torch.arange(height) * stride, torch.arange(width) * stride, indexing='ij'
        )
        centre = torch.stack([x, y], -1).reshape(-1, 2)
        anchors.append(torch.cat([centre - 4 * stride, centre + 4 * stride], 1))
        sizes.append(height * width)
    # Places outside of the image's 96 pixels, on the levels of stride 64 and 128,
    # do not exist: 2 x 2 and 1 x 1 maps.
    assert sizes == [144, 36, 9, 4, 1]
    anchors = torch.cat(anchors).float()
    maps = maps_of(view, vlr_weights(view, step))
    for image, boxes in enumerate(step.gt_boxes):
        _, expected = valuable_localization_region(anchors, sizes, boxes)
        found = torch.cat([m[image].flatten() for m in maps])
        assert torch.equal(found, expected)
        assert (expected > 0).sum() > 5


def test_crowd_boxes_are_not_seen(model):
    raw = batch(seed=8)
    crowded = copy.deepcopy(raw)
    for sample in crowded['data_samples']:
        sample.ignored_instances = InstanceData(
            bboxes=torch.tensor([[5.0, 5, 80, 70], [20, 30, 40, 60]]),
            labels=torch.tensor([0, 1]),
        )
    view, step = view_of(model_of(model), raw)
    other_view, other_step = view_of(model_of(model), crowded)
    weights = vlr_weights(view, step)
    assert weights.sum() > 0
    assert torch.equal(vlr_weights(other_view, other_step), weights)
    plain, beside = losses_of(model, raw), losses_of(model, crowded)
    assert all(torch.equal(plain[name], beside[name]) for name in TERMS)
    # Were they objects, the terms would be others.
    for sample in crowded['data_samples']:
        sample.gt_instances = InstanceData.cat(
            [sample.gt_instances, sample.ignored_instances]
        )
        del sample.ignored_instances
    objects = losses_of(model, crowded)
    assert all(not torch.equal(plain[name], objects[name]) for name in TERMS)


def test_the_order_of_the_images_does_not_matter(student, teacher):
    raw = batch(((96, 128), (128, 96), (64, 64)), seed=9)
    order = [2, 0, 1]
    turned = {key: [values[i] for i in order] for key, values in raw.items()}
    for normalize in ('avg_factor', 'paper'):
        model = distilled(student, teacher, normalize=normalize)
        one, other = losses_of(model, raw), losses_of(model, turned)
        for name in TERMS:
            assert one[name] > 1e-3
            torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=0)


def test_log_values_are_shown_and_not_added_up(model):
    losses = losses_of(model, batch())
    names = [
        f'{term}_{kind}' for term in ('ld', 'vlr', 'kd') for kind in ('kl', 'share')
    ]
    assert all(losses[name].shape == () for name in names)
    assert all(losses[name] > 0 and not losses[name].requires_grad for name in names)
    summed, shown = model.parse_losses(losses)
    assert set(names) < set(shown)
    expected = total({k: v for k, v in losses.items() if k.startswith('loss')})
    torch.testing.assert_close(summed, expected)
    assert losses['ld_share'] < losses['vlr_share'] < 1
    assert losses['ld_share'] == losses['kd_share']


def test_the_logged_divergence_is_that_of_the_rows(model):
    data = prepared(model, batch())
    with record(model, {'bbox_head': DenseHeadView}) as taps:
        losses = model.train()(**data, mode='loss')
    ours = taps['bbox_head']
    inputs = Batch(data['inputs'], data['data_samples'])
    run = model.distiller.teacher.run(inputs, {'bbox_head': DenseHeadView})
    theirs = run['bbox_head']
    rows = ours.positives
    for name, logits, temperature in (
        ('ld_kl', 'edge_rows', 10),
        ('kd_kl', 'class_rows', 2),
    ):
        p = (getattr(theirs, logits)[rows] / temperature).softmax(-1)
        q = (getattr(ours, logits)[rows] / temperature).softmax(-1)
        expected = (p * (p / q).log()).sum(-1).mean()
        torch.testing.assert_close(losses[name], expected.detach())


def test_log_values_belong_to_the_last_step(model):
    full, empty = losses_of(model, batch()), losses_of(model, batch(without=(0, 1)))
    assert full['ld_kl'] > 0
    assert empty['ld_kl'] == empty['vlr_kl'] == empty['kd_share'] == 0


def test_weight_0_is_stock_training_bit_for_bit(teacher):
    cfg = tiny_gfl()  # BatchNorm, whose statistics a step changes
    stock, twin = (build(cfg.model, 'mmdet', 3) for _ in range(2))
    off = distilled(twin, teacher, loss_weight=0)
    runs = {}
    for name, model in (('stock', stock), ('off', off)):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for step in range(2):
            losses = losses_of(model, batch(seed=step), seed=step)
            optimizer.zero_grad()
            total(losses).backward()
            optimizer.step()
        runs[name] = losses, model.state_dict()
    for name, values in runs['stock'][0].items():
        assert all(torch.equal(a, b) for a, b in zip(values, runs['off'][0][name]))
    assert set(runs['off'][0]) - set(runs['stock'][0]) == set(TERMS)
    assert all(runs['off'][0][name] == 0 for name in TERMS)
    assert runs['stock'][1].keys() == runs['off'][1].keys()
    for name, value in runs['stock'][1].items():
        assert torch.equal(value, runs['off'][1][name])


def test_it_teaches(student, teacher):
    """Steps on the terms alone bring the student's edges to the teacher's."""
    model = distilled(student, teacher)
    optimizer = torch.optim.Adam(model.bbox_head.parameters(), 5e-3)
    logs = []
    for _ in range(12):
        losses = losses_of(model, batch())
        logs.append([losses[name].item() for name in ('ld_kl', 'vlr_kl', 'kd_kl')])
        optimizer.zero_grad()
        sum(losses[name] for name in TERMS).backward()
        optimizer.step()
    for first, last in zip(logs[0], logs[-1]):
        assert last < 0.8 * first
