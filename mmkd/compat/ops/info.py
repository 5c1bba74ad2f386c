"""What mmcv reports about the build of its extension."""

from __future__ import annotations

_ANSWER = 'not compiled (torchvision operators through mmkd)'


def get_compiler_version() -> str:
    """Text for the environment report that runners log."""
    return _ANSWER


def get_compiling_cuda_version() -> str:
    """Text for the environment report that runners log."""
    return _ANSWER
