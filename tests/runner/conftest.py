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
