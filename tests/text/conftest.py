"""What the tests of text encoders share."""

import pytest
from tiny_text import make_bert

pytest.importorskip('transformers', reason='needs transformers')


@pytest.fixture(scope='session')
def bert(tmp_path_factory):
    """Folder of a small BERT."""
    return str(make_bert(tmp_path_factory.mktemp('bert')))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Names of the hub end at once, wherever the tests run."""
    import huggingface_hub.constants

    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
