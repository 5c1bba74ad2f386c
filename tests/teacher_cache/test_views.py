"""Which views a pipeline has, and what they are called."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from small import coco, data_of, pipeline
from torch.utils.data import DataLoader, Dataset

from mmkd.cache.build import CacheBuilder
from mmkd.cache.names import SEEDED, view_name
from mmkd.cache.seeded_views import SeededViews
from mmkd.cache.views import pipelines
from mmkd.rng import get_rng_state


def flips(**step) -> list[tuple]:
    steps = [dict(type='mmdet.RandomFlip', **step)]
    return [(one['prob'], one['direction']) for (one,) in pipelines(steps)]


def test_flips():
    assert flips(prob=0.5) == [(0.0, 'horizontal'), (1.0, 'horizontal')]
    assert flips(prob=1.0, direction='vertical') == [(1.0, 'vertical')]
    assert flips(prob=0.0) == [(0.0, 'horizontal')]
    both = ['horizontal', 'vertical']
    drawn = flips(prob=[0.3, 0.5], direction=both)
    assert drawn == [(0.0, 'horizontal'), (1.0, 'horizontal'), (1.0, 'vertical')]
    assert flips(prob=[0.5, 0.5], direction=both) == drawn[1:]


def test_a_list_of_scales_times_flips():
    steps = [
        dict(type='RandomChoiceResize', scales=[(96, 64), (64, 48)], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
    ]
    drawn = [(one['scales'], flip['prob']) for one, flip in pipelines(steps)]
    scales = [[(96, 64)], [(64, 48)]]
    assert drawn == [(s, prob) for s in scales for prob in (0.0, 1.0)]


def test_the_views_are_those_that_training_draws(made, tmp_path):
    here = made('gfl')
    steps = pipeline()
    steps[2] = dict(
        type='RandomChoiceResize', scales=[(96, 64), (80, 48)], keep_ratio=True
    )
    cfg = copy.deepcopy(here.cfg)
    cfg.train_dataloader.dataset = coco(here.folder / 'data', steps)
    (views,) = CacheBuilder(cfg, str(tmp_path), 'cpu').views
    known = {view_name(one['data_samples'].metainfo): one for one in views.samples(0)}
    assert len(known) == 4
    dataset = data_of(cfg)
    seen = set()
    for _ in range(40):
        sample = dataset[0]
        name = view_name(sample['data_samples'].metainfo)
        assert torch.equal(sample['inputs'], known[name]['inputs'])
        seen.add(name)
    assert seen == set(known)


class Noise(Dataset):
    """Draws from all three generators."""

    metainfo: dict = {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        drawn = [random.random(), np.random.rand(), torch.rand(1).item()]
        return dict(inputs=torch.tensor([index, *drawn]))


def test_seeded_views_are_the_same_wherever_they_are_loaded():
    data = SeededViews(Noise(), views=4, seed=2)
    items = torch.stack([data[index]['inputs'] for index in range(12)])
    assert len(items[:, 1:].unique()) == 36
    assert items[:, 0].tolist() == [0, 1, 2] * 4
    loader = DataLoader(
        SeededViews(Noise(), views=4, seed=2), batch_size=4, num_workers=2
    )
    assert torch.equal(torch.cat([batch['inputs'] for batch in loader]), items)
    other = SeededViews(Noise(), views=4, seed=3)
    assert not torch.equal(other[0]['inputs'], items[0])


def test_seeded_views_leave_the_random_state_alone():
    data = SeededViews(Noise(), views=2)
    before = repr(get_rng_state())
    data[3]
    assert repr(get_rng_state()) == before


def test_seeded_views_of_a_pipeline_that_remembers_are_refused():
    class Counting(Noise):
        calls = 0

        def __getitem__(self, index):
            self.calls += 1
            return dict(inputs=torch.tensor([self.calls]))

    with pytest.raises(ValueError, match='does not give the same view twice'):
        SeededViews(Counting(), views=2).check()
    with pytest.raises(ValueError, match='views must be a positive integer but is 0'):
        SeededViews(Noise(), views=0)


def test_a_random_pipeline_is_cached_by_its_seeded_views(made, tmp_path):
    here = made('gfl')
    crop = dict(type='RandomCrop', crop_size=(64, 64), allow_negative_crop=True)
    cfg = copy.deepcopy(here.cfg)
    cfg.train_dataloader.dataset = dict(
        type='mmkd.SeededViews',
        views=2,
        seed=1,
        dataset=coco(here.folder / 'data', pipeline(crop)),
    )
    builder = CacheBuilder(cfg, str(tmp_path), 'cpu')
    builder.build()
    from small import batch_of, cached, model_of

    read, dataset = model_of(cached(cfg, tmp_path)), data_of(cfg)
    assert len(dataset) == 20
    builder.model.distiller.factors = dict.fromkeys(read.distiller.factors, 1.0)
    read.load_state_dict(builder.model.state_dict())
    for index in (3, 13):
        sample = dataset[index]
        assert sample['data_samples'].metainfo[SEEDED] == (3, index // 10)
        live, found = (
            model(**batch_of(model, [sample]), mode='loss')
            for model in (builder.model, read)
        )
        for name in read.distiller.losses:
            torch.testing.assert_close(found[name], live[name], rtol=5e-3, atol=1e-7)
