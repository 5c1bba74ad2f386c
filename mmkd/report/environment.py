"""Machine, versions and git state, now and as the runs logged them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .run import Run

_VERSION = import_module('mmkd').__version__
_PACKAGES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'mmdet',
    'mmsegmentation',
    'numpy',
    'pycocotools',
)


def environment_now() -> dict[str, str]:
    """Versions and hardware of the machine that writes the report.

    Example:
        >>> {'mmkd', 'Python', 'torch', 'processor'} <= environment_now().keys()
        True
    """
    found = dict(mmkd=_VERSION, Python=platform.python_version())
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found['system'] = platform.platform()
    found['processor'] = f'{_processor()}, {os.cpu_count()} cores'
    if torch.cuda.is_available():
        found['GPU'] = torch.cuda.get_device_name()
    return found


def git_state(folder: Path) -> str:
    """Commit of a checkout and whether files differ from it.

    Args:
        folder: Any folder.

    Returns:
        One line; for a folder outside of a checkout it says so.
    """
    commit = _git(folder, 'rev-parse', 'HEAD')
    if not commit:
        return 'no git checkout'
    changed = _git(folder, 'status', '--porcelain').splitlines()
    where = _git(folder, 'rev-parse', '--abbrev-ref', 'HEAD')
    state = f'{len(changed)} files changed or new' if changed else 'clean'
    return f'{commit[:12]} ({where}), {state}'


def logged_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """What the runs logged of their machines, a row per name.

    Args:
        runs: The runs.

    Returns:
        Header and rows; a cell is empty where a run logged nothing of it.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.environment))
    rows = [[key, *(run.environment.get(key, '') for run in runs)] for key in keys]
    return ['', *(run.name for run in runs)], rows


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.rstrip() if done.returncode == 0 else ''


def _processor() -> str:
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        text = ''
    for line in text.splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
