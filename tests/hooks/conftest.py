"""The toy model of the tests of whole runs serves those of single hooks, too."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'runner'))
from toy import quicken


@pytest.fixture(autouse=True)
def _quick_and_repeatable(monkeypatch):
    quicken(monkeypatch.setattr)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
