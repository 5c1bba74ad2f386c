"""Runs and their caches, made once for all of these tests."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('safetensors')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from small import cached, detector_run, model_of, pspnet_run
from toy import quicken

from mmkd.cache.build import CacheBuilder


@dataclass
class Cached:
    """A run with a live teacher, and what that teacher says."""

    cfg: Config
    folder: Path
    cache: Path

    @functools.cached_property
    def live(self) -> torch.nn.Module:
        """The model with its teacher; no test changes it."""
        return model_of(self.cfg)

    @functools.cached_property
    def read(self) -> torch.nn.Module:
        """The model with the cache; no test changes it."""
        return model_of(cached(self.cfg, self.cache))


@pytest.fixture(scope='session', autouse=True)
def _quick():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        # Several files of a few pictures.
        patch.setattr('mmkd.cache.build.IMAGES_PER_SHARD', 3)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """Kind of a run -> its cache; made when it is first asked for."""
    known: dict[str, Cached] = {}

    def make(kind: str) -> Cached:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            segments = kind == 'pspnet'
            cfg = pspnet_run(folder) if segments else detector_run(folder, kind)
            CacheBuilder(cfg, str(folder / 'cache'), 'cpu').build()
            known[kind] = Cached(cfg, folder, folder / 'cache')
        return known[kind]

    return make
