"""Building: the same files, however many processes and however often killed."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from mmengine.fileio import BaseStorageBackend, register_backend
from small import batch_of, cached, data_of, files, model_of

from mmkd.cache.build import CacheBuilder
from mmkd.fileio import PART_SUFFIX


def build(cfg, cache: Path, rank: int, done) -> None:
    """What one of two processes does; every file is announced."""
    os.environ.update(RANK=str(rank), WORLD_SIZE='2')
    CacheBuilder(cfg, str(cache), 'cpu').build(done.put)


def test_two_processes_one_killed_and_three_that_go_on(made, tmp_path, monkeypatch):
    """Together they write what one process writes, byte for byte."""
    cache, expected = tmp_path / 'cache', files(made('gfl').cache)
    context = multiprocessing.get_context('fork')  # which spares importing everything
    done = [context.Queue() for _ in range(2)]
    processes = [
        context.Process(target=build, args=(made('gfl').cfg, cache, rank, done[rank]))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    done[0].get(timeout=200)  # its first file is there
    processes[0].kill()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0]
    whole = {k: v for k, v in files(cache).items() if PART_SUFFIX not in k}
    assert {'manifest.json', 'shard-00001.safetensors'} < set(whole) <= set(expected)
    assert whole == {name: expected[name] for name in whole}
    # What a kill leaves behind is never taken for a file.
    (cache / f'.shard-00001.safetensors{PART_SUFFIX}').write_bytes(b'half')
    written = 0
    for rank in range(3):
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', '3')
        written += CacheBuilder(made('gfl').cfg, str(cache), 'cpu').build()
    assert written == len(expected) - len(whole)
    found = files(cache)
    assert {name: found[name] for name in expected} == expected


def test_a_complete_cache_is_left_as_it_is_and_a_damaged_file_made_anew(made, tmp_path):
    here = made('gfl')
    expected = files(here.cache)
    for name, content in expected.items():
        (tmp_path / name).write_bytes(content)
    broken = tmp_path / 'shard-00002.safetensors'
    content = bytearray(expected[broken.name])
    content[-1] ^= 1
    broken.write_bytes(content)
    done: list[int] = []
    assert CacheBuilder(here.cfg, str(tmp_path), 'cpu').build(done.append) == 1
    assert files(tmp_path) == expected
    assert sum(done) == 10


class Bucket(BaseStorageBackend):
    """Object storage: puts and gets whole objects, knows no folders."""

    objects: dict[str, bytes] = {}
    gets: list[str] = []

    def get(self, filepath):
        self.gets.append(str(filepath))
        return self.objects[str(filepath)]

    def get_text(self, filepath, encoding='utf-8'):
        return self.get(filepath).decode(encoding)

    def put(self, obj, filepath):
        self.objects[str(filepath)] = obj

    def exists(self, filepath):
        return str(filepath) in self.objects

    def join_path(self, filepath, *filepaths):
        return '/'.join([filepath, *filepaths])


def test_object_storage_is_written_and_each_file_fetched_once(
    made, tmp_path, monkeypatch
):
    register_backend('bucket', Bucket, prefixes='bucket', force=True)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    here = made('gfl')
    CacheBuilder(here.cfg, 'bucket://mine/cache', 'cpu').build()
    expected = {f'bucket://mine/cache/{k}': v for k, v in files(here.cache).items()}
    assert Bucket.objects == expected
    Bucket.gets.clear()
    model = model_of(cached(here.cfg, 'bucket://mine/cache'))
    samples = [data_of(here.cfg)[index] for index in range(10)]
    for _ in range(2):
        losses = model(**batch_of(model, samples), mode='loss')
    assert losses['loss_ld'] > 0
    fetched = [name for name in Bucket.gets if name.endswith('.safetensors')]
    assert sorted(fetched) == sorted(k for k in expected if 'shard' in k)
    assert not [path for path in tmp_path.rglob('*') if PART_SUFFIX in path.name]


def test_a_folder_with_another_cache_is_left_alone(made):
    here = made('gfl')
    before = files(here.cache)
    other = made('fcos')
    builder = CacheBuilder(other.cfg, str(here.cache), 'cpu')
    with pytest.raises(ValueError, match='holds another cache'):
        builder.build()
    assert files(here.cache) == before


def test_two_images_of_one_name_are_refused(made, tmp_path):
    cfg = copy.deepcopy(made('gfl').cfg)
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, one])
    with pytest.raises(ValueError, match='two images called'):
        CacheBuilder(cfg, str(tmp_path), 'cpu')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=one)
    assert CacheBuilder(cfg, str(tmp_path), 'cpu').images == 10
