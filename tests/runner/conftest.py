"""Runs are compared bit for bit, so they use one thread; and they are short."""

import pytest
import torch
from toy import quicken


@pytest.fixture(autouse=True)
def _quick_and_repeatable(monkeypatch):
    quicken(monkeypatch.setattr)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """Folder of a few pictures of the digits data set."""
    from mmkd.demo.digits import make_digits

    folder = tmp_path_factory.mktemp('data') / 'digits'
    return make_digits(folder, num_train=6, num_val=2, size=64)
