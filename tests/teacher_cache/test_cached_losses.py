"""What is read from a cache equals what a live teacher says of the single view."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small import LD, batch_of, cached, data_of, gfl_run, model_of

from mmkd.batch import Batch
from mmkd.cache.build import CacheBuilder
from mmkd.losses.base import levels
from mmkd.taps import record

KINDS = ('gfl', 'fcos', 'retina', 'pspnet')


def drawn(dataset, count: int) -> list:
    np.random.seed(4)
    return [dataset[index % len(dataset)] for index in range(count)]


def terms(model, data) -> dict[str, torch.Tensor]:
    losses = model(**copy.deepcopy(data), mode='loss')
    return {name: losses[name] for name in model.distiller.losses}


@pytest.mark.parametrize('kind', KINDS)
def test_losses_of_single_views_equal_those_of_the_live_teacher(made, kind):
    here = made(kind)
    live, read = here.live, here.read
    samples = drawn(data_of(here.cfg), 10)
    flips = {bool(sample['data_samples'].metainfo['flip']) for sample in samples}
    assert flips == {True, False}
    for sample in samples:
        data = batch_of(live, [sample])
        expected, found = terms(live, data), terms(read, data)
        for name in expected:
            assert expected[name] > 1e-6
            torch.testing.assert_close(
                found[name], expected[name], rtol=3e-3, atol=0, msg=f'{kind} {name}'
            )


@pytest.mark.parametrize('kind', ['gfl', 'fcos', 'retina'])
def test_rows_of_a_batch_of_several_sizes_are_those_of_the_single_views(made, kind):
    here = made(kind)
    live, read = here.live, here.read
    samples = drawn(data_of(here.cfg), 5)
    assert len({sample['inputs'].shape for sample in samples}) > 2
    taps = live.distiller._taps
    with torch.no_grad(), record(read, taps['student']) as seen:
        data = batch_of(read, samples)
        read(**data, mode='loss')
    batch = Batch(data['inputs'], data['data_samples'])
    student = seen['bbox_head']
    tap = read.distiller.teacher.run(batch, taps['teacher'])['bbox_head']
    tap.follow(student)
    for loss in live.distiller.losses.values():
        rows = loss.places(student, batch)
        assert len(rows)
        field = loss.reads[0]
        found = getattr(tap, dict(distributions='edges_of', logits='classes_of')[field])
        expected = by_hand(live, samples, student, field)[rows]
        values = found(rows).float()
        torch.testing.assert_close(values.flatten(1), expected, rtol=2e-3, atol=2e-4)


def by_hand(live, samples, student, field: str) -> torch.Tensor:
    """Every row of the batch: the single views' maps in its upper left corners."""
    singles = []
    for sample in samples:
        data = batch_of(live, [sample])
        batch = Batch(data['inputs'], data['data_samples'])
        tap = live.distiller.teacher.run(batch, live.distiller._taps['teacher'])
        singles.append(getattr(tap['bbox_head'], field))
    rows = []
    for level, (height, width) in enumerate(student.sizes):
        maps = [single[level][0] for single in singles]
        whole = torch.full((len(maps), len(maps[0]), height, width), torch.nan)
        for image, m in enumerate(maps):
            whole[image, :, : m.shape[1], : m.shape[2]] = m
        priors = student.num_priors[level]
        rows.append(whole.movedim(1, -1).reshape(-1, len(maps[0]) // priors))
    return torch.cat(rows)


def test_maps_of_a_batch_are_those_of_the_single_views(made):
    here = made('pspnet')
    live, read = here.live, here.read
    data = batch_of(live, drawn(data_of(here.cfg), 4))
    for found, expected in zip(
        terms(read, data).values(), terms(live, data).values(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=3e-3, atol=0)


def test_maps_are_put_in_the_upper_left_corner_of_a_larger_batch(made, tmp_path):
    here = made('gfl')
    soft = dict(loss_soft=dict(type='mmkd.SoftTargetLoss', at='bbox_head'))
    cfg = gfl_run(here.folder, losses=soft)
    CacheBuilder(cfg, str(tmp_path), 'cpu').build()
    live, read = model_of(cfg), model_of(cached(cfg, tmp_path))
    samples = drawn(data_of(cfg), 3)
    data = batch_of(read, samples)
    with torch.no_grad(), record(read, read.distiller._taps['student']) as seen:
        read(**copy.deepcopy(data), mode='loss')
    types = live.distiller._taps['teacher']
    batch = Batch(data['inputs'], data['data_samples'])
    tap = read.distiller.teacher.run(batch, types)['bbox_head']
    tap.follow(seen['bbox_head'])
    for image, sample in enumerate(samples):
        one = batch_of(live, [sample])
        single = live.distiller.teacher.run(
            Batch(one['inputs'], one['data_samples']), types
        )
        for whole, part in zip(tap.logits, levels(single['bbox_head'].value)):
            _, _, height, width = part.shape
            torch.testing.assert_close(
                whole[image, :, :height, :width].float(), part[0], rtol=1e-3, atol=1e-3
            )
            assert not whole[image, :, height:].any()
            assert not whole[image, :, :, width:].any()


def test_a_row_that_is_not_there_is_an_error_and_no_zero(made):
    here = made('gfl')
    read = here.read
    samples = drawn(data_of(here.cfg), 2)
    for sample in samples:  # another object than the cache was made for
        boxes = sample['data_samples'].gt_instances.bboxes.tensor
        boxes[:, 0::2] = boxes[:, 0::2].flip(1).sub(96).neg()
        boxes[:] = torch.tensor([2.0, 2, 30, 20])
    with pytest.raises(ValueError, match=r'rows are missing\): boxes or images'):
        terms(read, batch_of(read, samples))


def test_a_single_lost_row_is_taken_from_the_student(made, monkeypatch):
    """Rounding on another device may choose another of two priors."""
    here = made('gfl')
    read = here.read
    data = batch_of(read, drawn(data_of(here.cfg), 2))
    with torch.no_grad(), record(read, read.distiller._taps['student']) as seen:
        read(**copy.deepcopy(data), mode='loss')
    student, batch = seen['bbox_head'], Batch(data['inputs'], data['data_samples'])
    rows = read.distiller.losses['loss_kd'].places(student, batch)
    outside = next(i for i in range(rows[0], 10**6) if i not in rows.tolist())
    asked = torch.cat([rows, torch.tensor([outside])]).sort().values
    tap = read.distiller.teacher.run(batch, read.distiller._taps['teacher'])
    tap = tap['bbox_head']
    tap.follow(student)
    found, lost = tap.classes_of(asked), asked == outside
    assert torch.equal(found[~lost], tap.classes_of(rows))
    assert torch.equal(found[lost], student.classes_of(asked[lost]).half())


def test_what_is_not_finite_is_not_stored(made, tmp_path):
    here = made('gfl')
    builder = CacheBuilder(here.cfg, str(tmp_path), 'cpu')
    head = builder.model.distiller.teacher.model.bbox_head
    with torch.no_grad():
        head.gfl_reg.bias[0] = torch.inf
    with pytest.raises(ValueError, match='distributions of .bbox_head. in the teacher'):
        builder.build()


def test_large_logits_are_stored_as_the_largest_half(made, tmp_path):
    here = made('gfl')
    losses = dict(loss_kd=LD['loss_kd'])
    builder = CacheBuilder(gfl_run(here.folder, losses=losses), str(tmp_path), 'cpu')
    head = builder.model.distiller.teacher.model.bbox_head
    with torch.no_grad():
        head.gfl_cls.bias[0] = 1e6
    builder.build()
    read = model_of(cached(gfl_run(here.folder, losses=losses), tmp_path))
    data = batch_of(read, drawn(data_of(here.cfg), 1))
    (found,) = terms(read, data).values()
    assert found.isfinite()
