"""What keeps stock OpenMMLab packages working on current torch."""

from __future__ import annotations

from .ext import OpNotAvailableError, install_ops
from .glip import install_glip
from .stock_loading import install_checkpoint_loading

__all__ = [
    'OpNotAvailableError',
    'install',
    'install_checkpoint_loading',
    'install_glip',
    'install_ops',
]


def install() -> None:
    """Close the gaps of the installed host packages; safe to call again."""
    install_ops()
    install_checkpoint_loading()
    install_glip()
