"""``mmkd::path`` and ``mmseg::path`` as the ``_base_`` of a config."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

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
        path, scope = resolve(cfg_path, filename)
        # A prefix also is the scope of the types in the file. Ours hold types of
        # the host libraries, which the scope `mmkd` would hide.
        return path, None if scope == PREFIX else scope

    Config._get_cfg_path = staticmethod(resolve_without_scope)  # type: ignore
