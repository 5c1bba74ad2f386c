"""What the examples in docstrings need: they are run in any order."""

import pytest
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True)
def logger() -> MMLogger:
    """The host's logger, made before any example runs.

    It keeps the ``sys.stdout`` of the moment it is made. Made by an example,
    that is doctest's, and its lines would count as the example's output.
    """
    return MMLogger.get_current_instance()
