"""Decode-head views, though mmseg calls ``decode_head.forward`` directly."""

import pytest
import torch
from tiny_models import build, segmentation_batch, tiny_pspnet

from mmkd.seg.views import DecodeHeadView, tap_of
from mmkd.taps import Tap, record


@pytest.fixture
def step():
    model = build(tiny_pspnet().model, 'mmseg').train()
    model.decode_head.dropout = None  # its logits follow from its features then
    data = model.data_preprocessor(segmentation_batch(), True)
    with record(model, {'decode_head': tap_of(model.decode_head)}) as taps:
        losses = model(**data, mode='loss')
    return model, data, taps['decode_head'], losses


def test_logits_are_those_before_resizing(step):
    model, _, view, losses = step
    (logits,) = view.logits
    assert logits.shape == (2, 4, 8, 8)
    torch.testing.assert_close(model.decode_head.conv_seg(view.features), logits)


def test_labels_are_what_the_stock_loss_saw(step):
    _, data, view, losses = step
    assert view.labels.shape == (2, 64, 64)
    assert (~view.valid).sum() == 2 * 5 * 64
    resized = torch.nn.functional.interpolate(
        view.logits[0], (64, 64), mode='bilinear', align_corners=False
    )
    value = torch.nn.functional.cross_entropy(
        resized, view.labels, ignore_index=255, reduction='sum'
    )
    # mmseg averages over all pixels, ignored ones included, unless told otherwise.
    torch.testing.assert_close(losses['decode.loss_ce'], value / view.labels.numel())


def test_only_decode_heads_have_views(step):
    model = step[0]
    assert tap_of(model.backbone) is Tap
    assert tap_of(model.auxiliary_head) is DecodeHeadView


def test_a_teacher_has_no_labels(step):
    model = step[0].eval()
    with record(model, {'decode_head': DecodeHeadView}) as taps:
        model(torch.zeros(1, 3, 64, 64), mode='tensor')
    with pytest.raises(RuntimeError, match='exist in the student only'):
        _ = taps['decode_head'].labels
