"""Distributional heads: stock heads in everything but the convolution of the boxes."""

import copy
import logging
import math
import pickle

import pytest
import torch
from ld_ranks import TERMS, batch, distilled, gfl, roughen
from mmengine.registry import MODELS as ROOT_MODELS
from term_ranks import prepared
from test_det_views import shrunk
from tiny_models import build, losses_of, total

import mmkd
from mmkd.batch import Batch
from mmkd.det.distributional import DistributionConv2d, EdgeDistanceCoder
from mmkd.det.views import DenseHeadView
from mmkd.taps import record
from mmkd.teacher import Teacher

#: Kind -> stock config, stock head, convolution of the boxes.
KINDS = dict(
    Retina=('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'retina_reg'),
    FCOS=('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'conv_reg'),
    ATSS=('mmdet::atss/atss_r50_fpn_1x_coco.py', 'atss_reg'),
)
STRIDES = (8, 16, 32, 64, 128)


def config(kind: str, distributional: bool = True, **head):
    cfg = shrunk(KINDS[kind][0])
    if distributional:
        cfg.bbox_head.type = f'mmkd.Distributional{kind}Head'
    cfg.bbox_head.update(head)
    return cfg


def made(kind: str, seed: int = 0, rough: bool = True, **head):
    """The stock config with the head's type changed, and nothing else."""
    model = build(config(kind, **head), 'mmdet', seed)
    if rough:
        roughen(model, seed, 0.1)
    return model


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope='module')
def model_of():
    """One model per kind; no test changes it."""
    models = {}

    def get(kind):
        if kind not in models:
            models[kind] = made(kind, 1)
        return models[kind]

    return get


def step_of(model, raw=None):
    """View of the head in one training step, its batch, and the losses."""
    data = prepared(model, raw or batch())
    with record(model, {'bbox_head': DenseHeadView}) as taps:
        losses = model.train()(**copy.deepcopy(data), mode='loss')
    return taps['bbox_head'], Batch(data['inputs'], data['data_samples']), losses


def test_the_type_is_found_by_name(kind, model_of):
    from mmdet.models import dense_heads
    from mmdet.registry import MODELS as DET_MODELS

    name = f'mmkd.Distributional{kind}Head'
    found = ROOT_MODELS.get(name)
    assert found is DET_MODELS.get(name) is type(model_of(kind).bbox_head)
    assert issubclass(found, getattr(dense_heads, f'{kind}Head'))
    assert getattr(mmkd, f'Distributional{kind}Head') is found
    assert ROOT_MODELS.get(f'mmkd.Distributional{kind}Heads') is None


def test_keys_are_the_stock_heads_without_scales(kind, model_of):
    stock = build(config(kind, distributional=False), 'mmdet').state_dict()
    ours = model_of(kind).state_dict()
    assert list(ours) == [name for name in stock if '.scales.' not in name]
    other = {name for name in ours if ours[name].shape != stock[name].shape}
    conv = f'bbox_head.{KINDS[kind][1]}'
    assert other == {f'{conv}.weight', f'{conv}.bias'}
    assert len(ours[f'{conv}.bias']) == 17 * len(stock[f'{conv}.bias'])


def test_init_weights_treats_the_convolution_as_the_stock_one(kind):
    conv = getattr(made(kind, rough=False).bbox_head, KINDS[kind][1])
    assert type(conv) is DistributionConv2d
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert conv.bias.abs().max() == 0


def test_it_learns_with_sgd(kind):
    model = made(kind, 2, rough=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    seen = []
    for _ in range(15):
        losses = losses_of(model, batch())
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        seen.append([total(losses).item(), losses['loss_dfl'].item()])
    assert all(math.isfinite(value) for step in seen for value in step)
    assert seen[-1][0] < 0.9 * seen[0][0]
    assert seen[-1][1] < seen[0][1]


def test_a_fresh_head_is_uniform(kind):
    """A DFL of log(17), weighted by 0.25."""
    _, _, losses = step_of(made(kind, 2, rough=False))
    assert losses['loss_dfl'].item() == pytest.approx(math.log(17) / 4, rel=0.05)


def test_predicted_boxes_are_the_expected_edges(kind, model_of):
    """The stock prediction and the view decode the same distributions."""
    model = copy.deepcopy(model_of(kind)).eval()
    model.test_cfg.score_thr = 0.0
    model.bbox_head.test_cfg.score_thr = 0.0
    data = model.data_preprocessor(batch(((96, 128),)), False)
    with torch.no_grad(), record(model, {'bbox_head': DenseHeadView}) as taps:
        (sample,) = model(**data, mode='predict')
    found = sample.pred_instances.bboxes
    limit = torch.tensor([128.0, 96, 128, 96])
    expected = taps['bbox_head'].expected_boxes.clamp(min=0).minimum(limit)
    nearest = torch.cdist(found, expected, p=1).min(1).values
    assert len(found) > 10
    assert nearest.max() < 1e-2
    assert (found[:, 2:] - found[:, :2]).max() > 20


def test_the_convolution_returns_the_expectation():
    conv = DistributionConv2d(torch.nn.Conv2d(3, 8, 3, padding=1), 5, 0.5)
    features = torch.randn(2, 3, 4, 6)
    logits, values = conv.distribution(features), conv(features)
    assert logits.shape == (2, 8 * 6, 4, 6)
    assert values.shape == (2, 8, 4, 6)
    for n, edge, y, x in [(0, 0, 0, 0), (1, 7, 3, 5), (0, 3, 2, 1), (1, 4, 0, 5)]:
        chances = [math.exp(logits[n, edge * 6 + b, y, x].item()) for b in range(6)]
        expected = sum(0.5 * b * c for b, c in enumerate(chances)) / sum(chances)
        assert values[n, edge, y, x].item() == pytest.approx(expected, rel=1e-5)
    assert 'project' not in conv.state_dict()


def test_rows_are_the_priors_of_the_head(kind, model_of):
    """In the order of its targets: level, image, y, x, prior of the place."""
    view, _, _ = step_of(model_of(kind))
    count = view.num_priors[0]
    row = 0
    for level, (height, width) in enumerate(view.sizes):
        maps = view.distributions[level], view.logits[level]
        for image in range(2):
            for y in range(height):
                for x in range(width):
                    for prior in range(count):
                        if row % 17 == 0:
                            edges = maps[0][image, :, y, x].reshape(count, 4, 17)
                            classes = maps[1][image, :, y, x].reshape(count, 3)
                            assert torch.equal(view.edge_rows[row], edges[prior])
                            assert torch.equal(view.class_rows[row], classes[prior])
                        row += 1
    assert row == len(view.edge_rows) == len(view.labels)


def places(view, row: int) -> tuple[int, torch.Tensor, float]:
    """Image of a row, centre of its prior and pixels per bin."""
    images, start = len(view.logits[0]), 0
    for level, priors in enumerate(view.priors):
        if row < start + images * len(priors):
            image, index = divmod(row - start, len(priors))
            x1, y1, x2, y2 = priors[index].tolist()
            side = math.sqrt((x2 - x1) * (y2 - y1))
            assert view.bin_sizes[level][index % len(view.bin_sizes[level])] == (
                pytest.approx(side / 8, rel=1e-5)
            )
            return image, torch.tensor([x1 + x2, y1 + y2]) / 2, side / 8
        start += images * len(priors)
    raise AssertionError(row)


def objects_of(view, step, row: int) -> tuple[list[float], torch.Tensor]:
    """The edges of a positive's object in bins, and the object itself."""
    image, centre, unit = places(view, row)
    target = view.box_targets[row]
    if type(view.module).__name__ == 'DistributionalATSSHead':  # trains on boxes
        box = target
    else:  # distances in sides of the anchor, or in strides
        pixels = target * unit * (1 if 'FCOS' in type(view.module).__name__ else 8)
        box = torch.cat([centre - pixels[:2], centre + pixels[2:]])
    distance = (step.gt_boxes[image] - box).abs().sum(1).min()
    assert distance < 1e-2, 'the target is no object of its image'
    edges = torch.cat([centre - box[:2], box[2:] - centre]) / unit
    return edges.tolist(), box


@pytest.mark.parametrize('reg_max', [16, 4])
def test_the_focal_loss_is_that_of_the_formula(kind, reg_max):
    """4 bins do not reach the edges of every object: targets are clamped."""
    model = made(kind, 1, reg_max=reg_max)
    view, step, losses = step_of(model)
    value = weights = 0.0
    clamped = 0
    for row in view.positives.nonzero().flatten().tolist():
        edges, _ = objects_of(view, step, row)
        weight = view.class_rows[row].sigmoid().max().item()
        weights += weight
        for edge, target in enumerate(edges):
            clamped += target > reg_max
            y = min(max(target, 0), reg_max - 0.1)
            left = int(y)
            log_p = view.edge_rows[row, edge].log_softmax(0)
            value -= weight * (left + 1 - y) * log_p[left].item()
            value -= weight * (y - left) * log_p[left + 1].item()
    assert weights > 0.1
    assert reg_max == 16 or clamped > 0
    expected = 0.25 * value / (4 * (weights + 1e-6))
    assert losses['loss_dfl'].item() == pytest.approx(expected, rel=1e-3)
    assert expected > 0.1


def test_the_weight_of_the_focal_loss_can_be_set(kind):
    stronger = dict(type='DistributionFocalLoss', loss_weight=1.0)
    one, four = made(kind, 1), made(kind, 1, loss_dfl=stronger)
    losses = [step_of(model)[2] for model in (one, four)]
    torch.testing.assert_close(losses[1]['loss_dfl'], 4 * losses[0]['loss_dfl'])
    assert all(
        torch.equal(a, b)
        for name in losses[0]
        if name != 'loss_dfl' and isinstance(losses[0][name], list)
        for a, b in zip(losses[0][name], losses[1][name])
    )


def test_images_without_objects(kind, model_of):
    model = copy.deepcopy(model_of(kind))
    _, _, losses = step_of(model, batch(without=(0, 1)))
    assert losses['loss_dfl'].item() == 0
    total(losses).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_wrong_reg_max_is_an_error(kind):
    with pytest.raises(ValueError, match='reg_max must be >= 1 but is 0'):
        made(kind, reg_max=0)


def test_fcos_counts_in_strides_whatever_the_config_says():
    assert made('FCOS', rough=False, norm_on_bbox=False).bbox_head.norm_on_bbox


def test_nothing_stays_on_the_head(kind, model_of):
    """Recording its own forward pass, inside of a step that is recorded."""
    model = model_of(kind)
    step_of(model)
    conv = getattr(model.bbox_head, KINDS[kind][1])
    for module in (model.bbox_head, conv):
        assert not {'forward', 'distribution', 'get_targets', 'edge_distributions'} & (
            set(vars(module))
        )


def test_coder_round_trip_and_units():
    centres, sides = torch.rand(50, 2) * 100, 4 + torch.rand(50, 2) * 40
    priors = torch.cat([centres - sides / 2, centres + sides / 2], 1)
    corners = torch.rand(50, 2) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(50, 2) * 60], 1)
    coder = EdgeDistanceCoder()
    distances = coder.encode(priors, boxes)
    for row in range(5):
        x, y = centres[row].tolist()
        side = math.sqrt(sides[row].prod().item())
        x1, y1, x2, y2 = boxes[row].tolist()
        expected = [(x - x1) / side, (y - y1) / side, (x2 - x) / side, (y2 - y) / side]
        assert distances[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(coder.decode(priors, distances), boxes)
    assert coder.encode_size == 4


def test_coder_clips_at_the_border_unless_told_not_to():
    priors, distances = torch.tensor([[0.0, 0, 8, 8]]), torch.full((1, 4), 2.0)
    assert EdgeDistanceCoder().decode(priors, distances, (10, 16)).tolist() == [
        [0, 0, 16, 10]
    ]
    free = EdgeDistanceCoder(clip_border=False).decode(priors, distances, (10, 16))
    assert free.tolist() == [[-12, -12, 20, 20]]
    assert EdgeDistanceCoder().decode(priors, distances).tolist() == free.tolist()


def test_bins_are_eighths_of_an_anchor(model_of):
    """RetinaNet's nine anchors: three scales for each of three shapes of one area."""
    view = DenseHeadView('bbox_head', model_of('Retina').bbox_head)
    for stride, sizes in zip(STRIDES, view.bin_sizes):
        scales = [stride * 4 * 2 ** (k / 3) / 8 for k in range(3)]
        assert sizes == pytest.approx(scales * 3, rel=1e-4)


def test_bins_of_atss_are_those_of_gfl(model_of):
    student, teacher = model_of('ATSS'), gfl(24, 2)
    views = [step_of(model)[0] for model in (student, teacher)]
    assert views[0].bin_sizes == views[1].bin_sizes == [[float(s)] for s in STRIDES]
    assert all(torch.equal(*pair) for pair in zip(*(view.priors for view in views)))
    # Equal logits are equal boxes, whichever head's they are.
    boxes = []
    for view in views:
        view.edge_rows = views[1].edge_rows
        boxes.append(view.expected_boxes)
    torch.testing.assert_close(*boxes)
    losses = losses_of(distilled(student, teacher), batch())
    assert all(losses[name] > 1e-4 for name in TERMS)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_fcos_and_gfl_count_from_other_places(side, model_of):
    """FCOS's points lie half a stride beside GFL's anchors."""
    pair = [model_of('FCOS'), gfl(24, 2)]
    if side == 'teacher':
        pair.reverse()
    views = [step_of(model)[0] for model in pair]
    assert not torch.equal(views[0].priors[0], views[1].priors[0])
    with pytest.raises(ValueError, match='must have the same'):
        distilled(*pair)


def test_each_head_teaches_and_learns(kind, model_of):
    student, teacher = model_of(kind), made(kind, 5)
    model = distilled(student, teacher)
    losses = losses_of(model, batch())
    assert all(losses[name] > 1e-4 for name in TERMS)
    total(losses).backward()
    conv = getattr(model.bbox_head, KINDS[kind][1])
    assert conv.weight.grad.abs().max() > 0
    assert all(
        p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
    )
    stock = losses_of(copy.deepcopy(student), batch())
    assert torch.equal(stock['loss_dfl'], losses['loss_dfl'])


@pytest.mark.parametrize('normalize', ['avg_factor', 'paper'])
def test_a_teacher_of_equal_weights_teaches_nothing(kind, model_of, normalize):
    student = copy.deepcopy(model_of(kind))
    for module in student.modules():  # of the two, the teacher alone is in eval mode
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    losses = losses_of(distilled(student, student, normalize=normalize), batch())
    assert all(losses[name].abs() < 1e-9 for name in TERMS)
    assert losses['loss_dfl'] > 0.1


def test_main_rows_are_the_positives_edges(kind, model_of):
    """The paper's form by loops: no row of another prior, whatever their number."""
    student, teacher = model_of(kind), made(kind, 5).eval()
    term = dict(loss_ld=TERMS['loss_ld'])
    model = distilled(student, teacher, term, normalize='paper')
    value = losses_of(model, batch())['loss_ld'].item()
    view, step, _ = step_of(student)
    theirs = Teacher(teacher).run(step, {'bbox_head': DenseHeadView})['bbox_head']
    expected = 0.0
    for row in view.positives.nonzero().flatten().tolist():
        weight = view.class_rows[row].sigmoid().max().item()
        for edge in range(4):
            p = (theirs.edge_rows[row, edge] / 10).softmax(0)
            q = (view.edge_rows[row, edge] / 10).softmax(0)
            divergence = (p * (p / q).log()).sum().item()
            expected += 0.25 * weight * 100 * divergence / 17 / 4
    assert expected > 1e-3
    assert value == pytest.approx(expected, rel=1e-3)


def test_the_training_flag_of_a_teacher_does_not_matter(kind, model_of):
    """FCOS returns pixels in eval mode; the distributions stay in bins."""
    model = copy.deepcopy(model_of(kind)).eval()
    inputs = torch.randn(1, 3, 64, 96)
    views = {}
    for training in (False, True):
        model.bbox_head.training = training
        with torch.no_grad(), record(model, {'bbox_head': DenseHeadView}) as taps:
            model(inputs, mode='tensor')
        views[training] = taps['bbox_head']
    for one, other in zip(views[False].distributions, views[True].distributions):
        assert torch.equal(one, other)
    factor = views[False].boxes[1] / views[True].boxes[1]
    expected = 16.0 if kind == 'FCOS' else 1.0
    torch.testing.assert_close(factor, torch.full_like(factor, expected))
    torch.testing.assert_close(
        views[False].expected_boxes, views[True].expected_boxes, rtol=0, atol=0
    )
    taps = Teacher(model).run(Batch(inputs), {'bbox_head': DenseHeadView})
    assert torch.equal(taps['bbox_head'].edge_rows, views[True].edge_rows)


@pytest.mark.parametrize(
    'copied',
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=['deepcopy', 'pickle'],
)
def test_copies_compute_the_same(kind, model_of, copied):
    model = distilled(model_of(kind), made(kind, 5))
    twin = copied(model)
    ours, theirs = losses_of(model, batch()), losses_of(twin, batch())
    assert torch.equal(ours['loss_dfl'], theirs['loss_dfl'])
    assert all(torch.equal(ours[name], theirs[name]) for name in TERMS)
    with torch.no_grad():
        getattr(twin.bbox_head, KINDS[kind][1]).weight.mul_(2)
    assert torch.equal(losses_of(model, batch())['loss_dfl'], ours['loss_dfl'])
    assert not torch.equal(losses_of(twin, batch())['loss_dfl'], ours['loss_dfl'])


def test_finite_in_autocast_with_gradients(kind, model_of):
    model = distilled(model_of(kind), made(kind, 5))
    data = prepared(model, batch())
    exact = model.train()(**copy.deepcopy(data), mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**copy.deepcopy(data), mode='loss')
    for name in (*TERMS, 'loss_dfl'):
        torch.testing.assert_close(losses[name], exact[name], rtol=0.1, atol=0)
    total(losses).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads)
    assert getattr(model.bbox_head, KINDS[kind][1]).weight.grad.abs().max() > 0


def test_expectations_are_in_full_precision_under_autocast(kind, model_of):
    with torch.autocast('cpu', torch.bfloat16):
        view = step_of(model_of(kind))[0]
    unit = 1.0 if kind == 'FCOS' else 1 / 8
    for logits, values in zip(view.distributions, view.boxes):
        assert logits.dtype == torch.bfloat16
        chances = logits.detach().float().unflatten(1, (-1, 17)).softmax(2)
        expected = (chances * torch.arange(17.0)[:, None, None]).sum(2) * unit
        torch.testing.assert_close(values.detach(), expected, rtol=1e-5, atol=1e-5)


def test_a_proposal_network_trains_its_distributions():
    """MMDetection calls loss_and_predict() there, not loss()."""
    model = made('FCOS')
    data = prepared(model, batch())
    features = model.extract_feat(data['inputs'])
    samples = data['data_samples']
    losses, found = model.bbox_head.loss_and_predict(features, samples)
    alone = model.bbox_head.loss(features, samples)
    assert len(found) == len(samples)
    torch.testing.assert_close(losses['loss_dfl'], alone['loss_dfl'])
    assert losses['loss_dfl'] > 0


@pytest.mark.parametrize('clip_border', [True, False])
def test_the_coder_keeps_the_configs_border(clip_border):
    coder = dict(type='DeltaXYWHBBoxCoder', clip_border=clip_border)
    head = made('Retina', bbox_coder=coder).bbox_head
    assert isinstance(head.bbox_coder, EdgeDistanceCoder)
    assert head.bbox_coder.clip_border is clip_border


def test_export_says_that_mmkd_is_needed(tmp_path):
    from mmengine.config import Config
    from mmengine.logging import MMLogger

    from mmkd.export import export_student

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    for kind, expected in (('Retina', True), (None, False)):
        cfg = config(kind) if kind else shrunk(KINDS['Retina'][0])
        model = build(cfg, 'mmdet')
        text = Config(
            dict(model=cfg, default_scope='mmdet', custom_imports=dict(imports='mmkd'))
        ).pretty_text
        path = tmp_path / f'{kind}.pth'
        torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=text)), path)
        _, written = export_student(path, tmp_path / f'{kind}_student.pth')
        exported = Config.fromfile(written)
        assert ('mmkd' in str(exported.get('custom_imports'))) == expected
        assert any('modules of mmkd' in line for line in said) == expected
        said.clear()
    MMLogger.get_current_instance().removeHandler(handler)


def test_a_softmax_over_one_class_is_an_error():
    model = made('Retina', num_classes=1)
    loss = dict(type='mmkd.ClassificationDistillationLoss')
    with pytest.raises(ValueError, match="only class of .*use form='sigmoid'"):
        distilled(model, model, dict(loss_kd=loss))
    distilled(model, model, dict(loss_kd=dict(loss, form='sigmoid')))
