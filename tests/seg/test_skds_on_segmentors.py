"""Structured distillation on stock segmentors: against loops, and beside stock."""

import copy
import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from tiny_models import (
    build,
    losses_of,
    segmentation_batch,
    tiny_pspnet,
    total,
    zoo,
)

from mmkd.batch import Batch
from mmkd.config import distill_config, method_losses
from mmkd.losses import pixel_wise_loss
from mmkd.seg.views import DecodeHeadView
from mmkd.taps import record

PIXEL = dict(type='mmkd.PixelWiseLoss', loss_weight=2.0)
PAIR = dict(type='mmkd.PairWiseLoss', loss_weight=3.0)
HOLISTIC = dict(
    type='mmkd.HolisticLoss',
    loss_weight=0.5,
    critic=dict(type='mmkd.SelfAttentionCritic', channels=2, norm=None),
)
ALL = dict(loss_pixel=PIXEL, loss_pair=PAIR, loss_holistic=HOLISTIC)


def distilled(losses=ALL, teacher=None, student=None):
    """A distilled tiny PSPNet; its teacher is wider and gets other weights."""
    student = student or tiny_pspnet(16)
    network = build((teacher or tiny_pspnet(24)).model, 'mmseg', seed=7)
    cfg = distill_config(student, network, losses)
    return build(cfg.model, 'mmseg')


def padded_batch() -> dict:
    """Two images, the second one smaller, so that it is padded."""
    batch = segmentation_batch()
    batch['inputs'][1] = batch['inputs'][1][:, :48, :40]
    sample = batch['data_samples'][1]
    data = sample.gt_sem_seg.data[:, :48, :40]
    del sample.gt_sem_seg.data
    sample.gt_sem_seg.data = data
    sample.set_metainfo(dict(img_shape=(48, 40), ori_shape=(48, 40)))
    return batch


def seen(model, raw: dict, seed: int = 0):
    """Losses of a step, and the student's and teacher's logits and features in it."""
    model.train()
    torch.manual_seed(seed)
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    head = model.decode_head
    with record(model, {'decode_head': model.tap_of(head)}) as taps:
        losses = model(**data, mode='loss')
    teacher = model.distiller.teacher.model
    with (
        torch.no_grad(),
        record(teacher, {'decode_head': model.tap_of(head)}) as theirs,
    ):
        teacher(data['inputs'], mode='tensor')
    views = taps['decode_head'], theirs['decode_head']
    return losses, data, views


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_pixel_wise_is_the_mean_over_labelled_cells():
    """Labels at 64 x 64, scores at 8 x 8: a cell is the pixel at its centre."""
    model = distilled()
    losses, data, (ours, theirs) = seen(model, padded_batch())
    s, t = (v.logits[0].detach().numpy() for v in (ours, theirs))
    labels = [x.gt_sem_seg.data[0].numpy() for x in data['data_samples']]
    assert s.shape == (2, 4, 8, 8)
    assert labels[0].shape == (64, 64)
    terms = []
    for n in range(2):
        for y in range(8):
            for x in range(8):
                if labels[n][8 * y + 4, 8 * x + 4] != 255:
                    p, q = softmax(t[n, :, y, x]), softmax(s[n, :, y, x])
                    terms.append(sum(p[c] * math.log(p[c] / q[c]) for c in range(4)))
    # All ignore the first row of cells: 5 pixels, the centre is the fifth. The second
    # image has 6 x 5 cells.
    assert len(terms) == 7 * 8 + 5 * 5
    expected = 2 * sum(terms) / len(terms)
    assert losses['loss_pixel'].item() == pytest.approx(expected, rel=1e-4)


def test_changing_ignored_labels_or_what_is_under_them():
    """Where the labels are 255 neither scores nor the place in a cell count."""
    model = distilled(dict(loss_pixel=PIXEL))
    raw = segmentation_batch()
    before = losses_of(model, raw)['loss_pixel'].item()
    everything = copy.deepcopy(raw)
    for sample in everything['data_samples']:
        sample.gt_sem_seg.data[:] = 255
    assert losses_of(model, everything)['loss_pixel'].item() == 0
    relabelled = copy.deepcopy(raw)
    for sample in relabelled['data_samples']:
        labels = sample.gt_sem_seg.data
        labels[labels != 255] = 1
    # What a label is does not matter, only whether there is one.
    assert losses_of(model, relabelled)['loss_pixel'].item() == before


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('height', 'width'), [(64, 96), (63, 97), (8, 8)])
def test_cells_lie_where_the_stock_head_resizes_them(align_corners, height, width):
    head = build(tiny_pspnet().model, 'mmseg').decode_head
    view = DecodeHeadView('decode_head', head)
    head.align_corners = align_corners
    rows = view._centres(height, 8, torch.device('cpu'))
    columns = view._centres(width, 12, torch.device('cpu'))
    # A ramp tells at which pixel a resized map has a cell's own value.
    for index, pixels, cells in ((rows, height, 8), (columns, width, 12)):
        if pixels < cells:
            continue
        ramp = torch.arange(cells, dtype=torch.float64)[None, None, None]
        resized = torch.nn.functional.interpolate(
            ramp, (1, pixels), mode='bilinear', align_corners=align_corners
        )[0, 0, 0]
        assert (
            resized[index] - ramp[0, 0, 0]
        ).abs().max() <= 0.5 * cells / pixels + 1e-9


def test_pair_wise_is_on_the_input_of_conv_seg():
    model = distilled()
    losses, _, (ours, theirs) = seen(model, padded_batch())
    s, t = ours.features.detach(), theirs.features
    assert s.shape == (2, 16, 8, 8)
    assert t.shape == (2, 24, 8, 8)
    total_, pairs = 0.0, 0
    for n, (rows, columns) in enumerate([(8, 8), (6, 5)]):  # cells in the image
        nodes = []
        for x in (s[n], t[n]):
            pooled = [
                x[:, y : min(y + 2, rows), c : min(c + 2, columns)].mean((1, 2))
                for y in range(0, rows, 2)
                for c in range(0, columns, 2)
            ]
            nodes.append(torch.stack(pooled))
        for i in range(len(nodes[0])):
            for j in range(len(nodes[0])):
                a, b = (
                    torch.cosine_similarity(x[i], x[j], dim=0).item() for x in nodes
                )
                total_ += (a - b) ** 2
                pairs += 1
    expected = 3 * total_ / pairs
    assert losses['loss_pair'].item() == pytest.approx(expected, rel=1e-4)


def test_holistic_is_what_the_critic_says_of_the_scores():
    model = distilled()
    critic = copy.deepcopy(model.distiller.losses['loss_holistic'].critic.state_dict())
    losses, _, (ours, theirs) = seen(model, segmentation_batch())
    term = model.distiller.losses['loss_holistic']
    assert term.adversary.steps == 1
    moved = term.critic.state_dict()
    assert any(not torch.equal(moved[k], critic[k]) for k in critic)
    term.critic.load_state_dict(critic)
    scores = [term.critic.eval()(v.logits[0].detach()) for v in (ours, theirs)]
    torch.testing.assert_close(losses['loss_holistic'], -0.5 * scores[0].mean())
    # Logged with the critic as it learns: the power iteration has gone on.
    assert {'holistic_gap', 'holistic_penalty', 'holistic_skipped'} <= losses.keys()
    assert losses['holistic_skipped'] == 0


def test_the_same_network_as_teacher_gives_zero():
    student = tiny_pspnet(16)
    student.model.decode_head.dropout_ratio = 0
    network = build(student.model, 'mmseg')
    # In evaluation mode, as the teacher is: with the same statistics.
    cfg = distill_config(student, network, dict(loss_pixel=PIXEL, loss_pair=PAIR))
    model = build(cfg.model, 'mmseg')
    model.load_state_dict(network.state_dict())
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    data = model.data_preprocessor(segmentation_batch(), True)
    losses = model(**data, mode='loss')
    assert losses['loss_pixel'].item() == pytest.approx(0, abs=1e-6)
    assert losses['loss_pair'].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('weights', ['zero', 'on'])
def test_the_stock_part_is_stock(weights):
    """Losses and gradients of the stock heads, bit for bit, dropout included."""
    stock = build(tiny_pspnet(16).model, 'mmseg')
    terms = copy.deepcopy(ALL)
    if weights == 'zero':
        for term in terms.values():
            term['loss_weight'] = 0.0
    model = distilled(terms)
    model.load_state_dict(stock.state_dict())
    raw = padded_batch()
    expected = losses_of(stock, raw)
    found = losses_of(model, raw)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert {'decode.loss_ce', 'aux.loss_ce'} <= expected.keys()
    total(expected).backward()
    stock_part = {k: v for k, v in found.items() if k in expected}
    total(found if weights == 'zero' else stock_part).backward()
    for (name, p), q in zip(stock.named_parameters(), model.parameters(), strict=False):
        assert torch.equal(p.grad, q.grad), name
    assert list(model.state_dict()) == list(stock.state_dict())
    # Off is off: there is no critic, nothing is trained.
    if weights == 'zero':
        assert model.distiller.losses['loss_holistic'].adversary is None
        assert all(found[name] == 0 for name in ALL)


def test_the_critic_is_in_nobodys_hands():
    model = distilled()
    term = model.distiller.losses['loss_holistic']
    critic = {id(p) for p in term.critic.parameters()}
    assert critic
    assert not critic & {id(p) for p in model.parameters()}
    losses = losses_of(model, segmentation_batch())
    total(losses).backward()
    assert all(p.grad is None for p in term.critic.parameters())


def test_gradients_of_the_terms_reach_the_student_alone():
    model = distilled()
    for name in ALL:
        model.zero_grad()
        losses_of(model, segmentation_batch())[name].backward()
        grads = {n for n, p in model.named_parameters() if p.grad is not None}
        assert any(n.startswith('backbone.conv') or 'stem' in n for n in grads)
        assert not any(n.startswith('auxiliary_head') for n in grads)
    teacher = model.distiller.teacher.model
    assert all(p.grad is None for p in teacher.parameters())


def official_pixel(s, t):
    """Cross-entropy of all pixels over H W."""
    rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (s, t)]
    entropy = -(rows[1].softmax(1) * rows[0].log_softmax(1)).sum()
    return entropy / s.shape[2] / s.shape[3]


def official_similarity(s, t):
    values = []
    for x in (s, t):
        unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-8)
        unit = unit.flatten(2)
        values.append(torch.einsum('icm,icn->imn', unit, unit))
    nodes = values[0].shape[1]
    return (values[1] - values[0]).square().sum() / nodes**2 / len(s)


def test_the_preset_of_the_later_code_gives_its_values():
    model = distilled(method_losses('skds_pami_code', 'mmseg'))
    losses, _, (ours, theirs) = seen(model, segmentation_batch())
    s, t = ours.logits[0], theirs.logits[0]
    torch.testing.assert_close(losses['loss_pixel'], 10 * official_pixel(s, t))
    s, t = (
        torch.nn.functional.max_pool2d(x, 4, 4, ceil_mode=True)  # half of 8
        for x in (ours.features, theirs.features)
    )
    torch.testing.assert_close(losses['loss_pair'], 0.5 * official_similarity(s, t))
    term = model.distiller.losses['loss_holistic']
    assert isinstance(term.adversary.optimizer, torch.optim.SGD)
    assert term.critic.norm is not None
    assert not term.critic.condition_on_image


def test_a_tenth_of_the_critics_loss_is_a_tenth_of_its_rate():
    """What the preset of the later code makes of ``d_loss * 0.1`` under SGD."""
    start = torch.tensor([1.0, -2.0])
    theirs, ours = (start.clone().requires_grad_() for _ in range(2))
    official = torch.optim.SGD([theirs], lr=4e-4, momentum=0.9, weight_decay=1e-4)
    (term,) = [
        x
        for x in method_losses('skds_pami_code', 'mmseg').values()
        if x['type'] == 'mmkd.HolisticLoss'
    ]
    arguments = {k: v for k, v in term['critic_optimizer'].items() if k != 'type'}
    preset = torch.optim.SGD([ours], lr=term['critic_lr'], **arguments)
    for step in range(5):
        gradient = torch.tensor([3.0, 5.0]) * (step + 1)
        theirs.grad, ours.grad = 0.1 * gradient, gradient
        official.step()
        preset.step()
    assert (theirs - start).abs().min() > 1e-4
    torch.testing.assert_close(theirs, ours)


def test_the_preset_of_the_first_code_gives_its_values():
    model = distilled(method_losses('skds_cvpr19_code', 'mmseg'))
    losses, _, (ours, theirs) = seen(model, segmentation_batch())
    larger = [
        torch.nn.functional.interpolate(
            x.logits[0], (64, 64), mode='bilinear', align_corners=True
        )
        for x in (ours, theirs)
    ]
    kl = torch.nn.KLDivLoss(reduction='mean')
    expected = 10 * kl(larger[0].log_softmax(1), larger[1].softmax(1))
    torch.testing.assert_close(losses['loss_pixel'], expected)
    expected = 10 * official_similarity(ours.features, theirs.features)
    torch.testing.assert_close(losses['loss_pair'], expected)
    critic = model.distiller.losses['loss_holistic'].critic
    assert critic.condition_on_image
    assert critic.norm is None
    assert critic.convs[0].in_channels == 3 + 4


def test_the_papers_preset():
    model = distilled(method_losses('skds', 'mmseg'))
    losses, data, (ours, theirs) = seen(model, segmentation_batch())
    s, t = ours.logits[0], theirs.logits[0]
    expected = 10 * pixel_wise_loss(s, t, ours.valid_at(s))
    torch.testing.assert_close(losses['loss_pixel'], expected)
    assert model.distiller.losses['loss_pair'].loss_weight == 10
    assert model.distiller.losses['loss_holistic'].loss_weight == 0.1


OCR = 'mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py'


def test_of_several_decode_heads_the_last_one():
    """OCRNet: an FCN, and the head after it, by which it is evaluated."""
    cfg = copy.deepcopy(zoo(OCR))
    plain = dict(type='BN', requires_grad=True)
    cfg.model.update(pretrained=None, backbone=tiny_pspnet().model.backbone)
    cfg.model.data_preprocessor.size = (64, 64)
    first, last = cfg.model.decode_head
    first.update(in_channels=32, channels=8, num_classes=4, norm_cfg=plain)
    last.update(
        in_channels=64, channels=8, ocr_channels=8, num_classes=4, norm_cfg=plain
    )
    model = distilled(student=cfg, teacher=cfg)
    losses, ours, theirs = _last_heads(model)
    s = ours.logits[0]
    expected = 2 * pixel_wise_loss(s, theirs.logits[0], ours.valid_at(s))
    torch.testing.assert_close(losses['loss_pixel'], expected)
    assert {'decode_0.loss_ce', 'decode_1.loss_ce'} <= losses.keys()
    assert all(losses[name].isfinite() for name in ALL)


def _last_heads(model):
    """Losses of a step, and the views of both last heads."""
    model.train()
    torch.manual_seed(0)
    data = model.data_preprocessor(segmentation_batch(), True)
    last = model.decode_head[-1]
    with record(model, {'decode_head.1': model.tap_of(last)}) as taps:
        losses = model(**data, mode='loss')
    teacher = model.distiller.teacher.model
    with torch.no_grad(), record(teacher, {'decode_head.1': model.tap_of(last)}) as t:
        teacher(data['inputs'], mode='tensor')
    return losses, taps['decode_head.1'], t['decode_head.1']


MASK2FORMER = 'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'
POINT_REND = 'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py'


def test_queries_are_an_error_when_built():
    cfg = copy.deepcopy(zoo(MASK2FORMER))
    cfg.model.backbone.init_cfg = None
    message = 'Mask2FormerHead predicts masks of queries.*tap the backbone'
    with pytest.raises(ValueError, match=message):
        distilled(student=cfg)
    with pytest.raises(ValueError, match=message):
        distilled(teacher=cfg)


def point_rend():
    """Stock PointRend, narrow: an FPN head, and one that refines points."""
    cfg = copy.deepcopy(zoo(POINT_REND))
    plain = dict(type='BN', requires_grad=True)
    cfg.model.update(pretrained=None)
    cfg.model.backbone.update(
        depth=18, base_channels=8, stem_channels=8, norm_cfg=plain
    )
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    cfg.model.data_preprocessor.size = (64, 64)
    first, last = cfg.model.decode_head
    first.update(in_channels=[8] * 4, channels=8, num_classes=4, norm_cfg=plain)
    last.update(in_channels=[8], channels=8, num_classes=4)
    cfg.model.train_cfg.num_points = 32
    return cfg


def test_points_are_an_error_when_built_and_its_remedy_works():
    cfg = point_rend()
    with pytest.raises(ValueError, match=r"PointHead.*at='decode_head.0'"):
        distilled(student=cfg, teacher=cfg)
    terms = {name: dict(term, at='decode_head.0') for name, term in ALL.items()}
    model = distilled(terms, student=cfg, teacher=cfg)
    model.train()
    data = model.data_preprocessor(segmentation_batch(), True)
    taps = {'decode_head.0': DecodeHeadView}
    with record(model, taps) as ours:
        losses = model(**data, mode='loss')
    batch = Batch(data['inputs'], data['data_samples'])
    theirs = model.distiller.teacher.run(batch, taps, {'decode_head.0': 1})
    # It runs twice in training: for its own loss, and for the next head.
    view = ours['decode_head.0']
    assert (len(view.calls['forward']), view.count) == (2, 1)
    s = view.logits[0]
    t = theirs['decode_head.0'].logits[0]
    expected = 2 * pixel_wise_loss(s, t, view.valid_at(s))
    torch.testing.assert_close(losses['loss_pixel'], expected)
    assert all(losses[name].isfinite() for name in ALL)


def head_of(kind: str):
    """A stock head that returns several maps in training, and its inputs."""
    from mmseg.models import decode_heads

    norm = dict(type='BN', requires_grad=True)
    common = dict(channels=8, num_classes=4, dropout_ratio=0, norm_cfg=norm)
    maps = [torch.randn(2, 8, 8, 8) for _ in range(3)]
    losses = [dict(type='CrossEntropyLoss')] * 2
    if kind == 'DAHead':
        head = decode_heads.DAHead(pam_channels=4, in_channels=8, in_index=0, **common)
    elif kind == 'EncHead':
        head = decode_heads.EncHead(
            in_channels=[8] * 3, in_index=(0, 1, 2), num_codes=4, **common
        )
    elif kind == 'DDRHead':
        head = decode_heads.DDRHead(in_channels=8, loss_decode=losses, **common)
        maps = [torch.randn(2, 4, 8, 8), maps[0]]
    elif kind == 'PIDHead':
        head = decode_heads.PIDHead(
            in_channels=8,
            loss_decode=[*losses, dict(type='BoundaryLoss'), *losses[:1]],
            **common,
        )
        maps = [torch.randn(2, 4, 8, 8), maps[0], torch.randn(2, 4, 8, 8)]
    return head, maps


@pytest.mark.parametrize('kind', ['DAHead', 'EncHead', 'DDRHead', 'PIDHead'])
def test_of_several_maps_the_one_that_is_predicted(kind):
    with DefaultScope.overwrite_default_scope('mmseg'):
        head, maps = head_of(kind)
    for p in head.parameters():  # convolutions start at zero in some
        torch.nn.init.normal_(p, 0, 0.3)
    model = torch.nn.ModuleDict(dict(decode_head=head)).eval()
    metas = [dict(img_shape=(8, 8))] * 2
    one_way = maps[1] if kind in ('DDRHead', 'PIDHead') else maps
    with torch.no_grad():
        predicted = head.predict(one_way, metas, {})
        head.training = True  # alone: its norms keep their statistics
        with record(model, dict(decode_head=DecodeHeadView)) as taps:
            outputs = head.forward(maps)
    assert len(outputs) > 1
    (found,) = taps['decode_head'].logits
    torch.testing.assert_close(found, predicted)


def test_a_head_of_several_maps_that_nobody_knows_is_an_error():
    class Twofold(torch.nn.Module):
        def forward(self, x):
            return x, x

    model = torch.nn.ModuleDict(dict(decode_head=Twofold()))
    with record(model, dict(decode_head=DecodeHeadView)) as taps:
        model.decode_head.forward(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match='Twofold returns several maps.*tap a sub-mod'):
        _ = taps['decode_head'].logits


def test_an_auxiliary_head_is_an_error_when_built():
    """It runs in training alone, where the teacher never is."""
    for name, term in ALL.items():
        message = f"{name}: 'auxiliary_head' does not run when the teacher predicts"
        with pytest.raises(ValueError, match=message):
            distilled({name: dict(term, at='auxiliary_head')})


@pytest.mark.parametrize('term', ['loss_pixel', 'loss_holistic'])
def test_other_classes_are_an_error_when_built(term):
    teacher = tiny_pspnet(24)
    teacher.model.decode_head.num_classes = 7
    teacher.model.auxiliary_head.num_classes = 7
    message = f'{term}: .*must score the same classes but score 4 and 7'
    with pytest.raises(ValueError, match=message):
        distilled({term: ALL[term]}, teacher)
    distilled(dict(loss_pair=PAIR), teacher)  # features have no classes


@pytest.mark.parametrize('term', ['loss_pixel', 'loss_holistic'])
def test_class_names_of_the_data_must_be_the_teachers(term):
    network = build(tiny_pspnet(24).model, 'mmseg', seed=7)
    network.dataset_meta = dict(classes=('a', 'b', 'c', 'd'))
    cfg = distill_config(tiny_pspnet(16), network, {term: ALL[term]})
    model = build(cfg.model, 'mmseg')
    model.distiller.check_classes(('a', 'b', 'c', 'd'))
    with pytest.raises(ValueError, match=f'{term}: .*same classes in the same order'):
        model.distiller.check_classes(('a', 'b', 'd', 'c'))


def test_a_teacher_of_another_stride():
    """Its scores are resized to the student's, its features pooled."""
    teacher = tiny_pspnet(24)
    teacher.model.backbone.update(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
    model = distilled(teacher=teacher)
    losses, _, (ours, theirs) = seen(model, segmentation_batch())
    assert ours.logits[0].shape[2:] == (8, 8)
    assert theirs.logits[0].shape[2:] == (2, 2)
    resized = torch.nn.functional.interpolate(
        theirs.logits[0], (8, 8), mode='bilinear', align_corners=False
    )
    s = ours.logits[0]
    expected = 2 * pixel_wise_loss(s, resized, ours.valid_at(s))
    torch.testing.assert_close(losses['loss_pixel'], expected)
    assert losses['loss_pair'] > 0
    assert losses['loss_holistic'].isfinite()


@pytest.mark.parametrize('size', [(64, 96), (72, 104)])
def test_crops_of_any_size(size):
    """72 x 104 pixels are 9 x 13 cells, which neither kernel nor critic divide."""
    model = distilled()
    raw = segmentation_batch()
    for i, sample in enumerate(raw['data_samples']):
        raw['inputs'][i] = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        del sample.gt_sem_seg.data
        sample.gt_sem_seg.data = torch.randint(0, 4, (1, *size))
    model.data_preprocessor.size = size
    losses = losses_of(model, raw)
    assert all(losses[name].isfinite() for name in ALL)


def test_autocast_leaves_the_terms_in_float32():
    model = distilled()
    exact = losses_of(model, segmentation_batch())
    fresh = distilled()
    with torch.autocast('cpu', torch.bfloat16):
        half = losses_of(fresh, segmentation_batch())
    for name in ALL:
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], exact[name], rtol=0.1, atol=0.02)
    total(half).backward()
    critic = fresh.distiller.losses['loss_holistic'].critic
    assert all(p.dtype == torch.float32 for p in critic.parameters())


def test_a_segmentor_of_one_output_channel():
    cfgs = tiny_pspnet(16), tiny_pspnet(24)
    for cfg in cfgs:
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(num_classes=2, out_channels=1)
            head.loss_decode.update(use_sigmoid=True)
    model = distilled(student=cfgs[0], teacher=cfgs[1])
    raw = segmentation_batch()
    for sample in raw['data_samples']:
        labels = sample.gt_sem_seg.data
        labels[labels != 255] %= 2
    losses = losses_of(model, raw)
    assert losses['loss_pixel'] > 0
    assert losses['holistic_gap'] != 0
    assert model.distiller.losses['loss_holistic'].critic.convs[0].in_channels == 1


def test_registered_under_their_names():
    with DefaultScope.overwrite_default_scope('mmseg'):
        for term in ALL.values():
            assert MODELS.get(term['type']) is not None
