"""DKD, DIST and MGD on real segmentors: which cells count, and for what."""

import copy

import pytest
import torch
from tiny_models import build, losses_of, segmentation_batch, tiny_pspnet

from mmkd.batch import Batch
from mmkd.config import distill_config, method_losses
from mmkd.losses import dist_loss, dkd_loss
from mmkd.seg.views import DecodeHeadView
from mmkd.taps import record


def distilled(*methods: str):
    teacher = build(tiny_pspnet(24).model, 'mmseg', seed=7)
    terms = {k: v for m in methods for k, v in method_losses(m, 'mmseg').items()}
    cfg = distill_config(tiny_pspnet(16), teacher, terms)
    return build(cfg.model, 'mmseg', seed=1)


def test_labelled_cells_are_compared():
    model = distilled('dkd', 'dist').train()
    raw = segmentation_batch()
    for sample in raw['data_samples']:
        sample.gt_sem_seg.data[:, :20] = 255
    torch.manual_seed(0)
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    with record(model, {'decode_head': DecodeHeadView}) as taps:
        losses = model(**data, mode='loss')
    view = taps['decode_head']
    (scores,) = view.logits
    taps = {'decode_head': DecodeHeadView}
    theirs = model.distiller.teacher.run(
        Batch(data['inputs'], data['data_samples']), taps
    )['decode_head'].logits[0]
    # A cell of stride 8 has its centre at pixel 4 of 8.
    labels = view.labels[:, 4::8, 4::8]
    assert labels.shape[1:] == scores.shape[2:]
    assert torch.equal(view.labels_at(scores)[:, 0], labels)
    known = labels != 255
    assert 0 < known.sum() < known.numel()
    rows = [x.permute(0, 2, 3, 1)[known] for x in (scores, theirs)]
    expected = dkd_loss(*rows, labels[known], temperature=1.0)
    torch.testing.assert_close(losses['loss_dkd'], expected)
    torch.testing.assert_close(losses['loss_dist'], dist_loss(*rows))


def test_of_a_backbone_the_last_stage_is_rebuilt():
    model = distilled('mgd')
    (generator,) = model.distiller.losses['loss_mgd'].generators
    assert generator[0].in_channels == 64  # base_channels 8: 8, 16, 32, 64
    assert losses_of(model, segmentation_batch())['loss_mgd'] > 0


def test_a_batch_without_labels_gives_zero():
    model = distilled('dkd', 'dist')
    raw = segmentation_batch()
    for sample in raw['data_samples']:
        sample.gt_sem_seg.data[:] = 255
    losses = losses_of(model, raw)
    assert losses['loss_dkd'].item() == losses['loss_dist'].item() == 0


@pytest.mark.parametrize('method', ['dkd', 'dist'])
def test_a_teacher_of_other_classes_is_refused(method):
    cfg = tiny_pspnet(24)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = 5
    teacher = build(cfg.model, 'mmseg')
    terms = method_losses(method, 'mmseg')
    with pytest.raises(ValueError, match='same classes but score 4 and 5'):
        build(distill_config(tiny_pspnet(16), teacher, terms).model, 'mmseg')


@pytest.mark.parametrize('method', ['dkd', 'dist'])
def test_a_head_with_sigmoids_is_refused(method):
    cfg = tiny_pspnet(16)
    cfg.model.decode_head.loss_decode = dict(type='CrossEntropyLoss', use_sigmoid=True)
    teacher = build(tiny_pspnet(24).model, 'mmseg')
    terms = method_losses(method, 'mmseg')
    with pytest.raises(ValueError, match='a softmax but the decode head .* a sigmoid'):
        build(distill_config(cfg, teacher, terms).model, 'mmseg')
