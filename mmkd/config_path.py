"""``mmkd::path`` and ``mmseg::path`` as the ``_base_`` of a config."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, _get_cfg_metainfo
from mmengine.utils import get_installed_path

PREFIX = 'mmkd'


def install() -> None:
    """Make ``_base_ = 'mmkd::hint/...py'`` name a shipped config.

    It is read in the scope of the config that names it, as a relative path
    would be. Safe to call more than once.
    """
    if PREFIX in MODULE2PACKAGE:
        return
    # mmengine looks for a distribution of this name and expects the package
    # beside its metadata, which is wrong for an editable installation. Where
    # there is no such distribution it asks Python, and the name of a module
    # leads to the folder of the package in every kind of installation.
    MODULE2PACKAGE[PREFIX] = 'mmkd.registry'
    try:
        distribution(MODULE2PACKAGE['mmseg'])
    except PackageNotFoundError:
        # A fork is installed under another name, which mmengine cannot know.
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    resolve = Config._get_cfg_path

    @functools.wraps(resolve)
    def resolve_without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if re.match(r'\w+::(?!\w+/)', cfg_path):
            # mmengine takes it for no name: `gn+ws/...` and `legacy_1.x/...`.
            return str(zoo_file(cfg_path)[0]), cfg_path.partition('::')[0]
        path, scope = resolve(cfg_path, filename)
        # A prefix also is the scope of the types in the file. Ours hold types of
        # the host libraries, which the scope `mmkd` would hide.
        return path, None if scope == PREFIX else scope

    Config._get_cfg_path = staticmethod(resolve_without_scope)  # type: ignore


def zoo_file(name: str) -> tuple[Path, Mapping[str, Any]]:
    """Where a shipped config lies, and what its metafile says of it.

    Args:
        name: ``'<library>::<folder>/<file>.py'`` of a library that is installed.

    Returns:
        The file, which need not exist, and the metafile's entry, perhaps empty.

    Example:
        >>> zoo_file('mmkd::hint/hint_gfl_r50_gfl_r101_1x_coco.py')[0].name
        'hint_gfl_r50_gfl_r101_1x_coco.py'
    """
    library, _, path = name.partition('::')
    folder = Path(get_installed_path(MODULE2PACKAGE[library]))
    try:
        meta = _get_cfg_metainfo(str(folder), path)
    except ValueError:  # not all configs are in one
        meta = {}
    return folder / '.mim' / meta.get('Config', f'configs/{path}'), meta
