"""The ``mmkd`` scope of mmengine's root registries."""

from __future__ import annotations

import importlib
from typing import Any

from mmengine import registry as root

#: Stock classes that are extended need their host library to be defined, so the
#: module of such a name is imported when the name is looked up, and not before.
HOST_CLASSES = {
    f'Distributional{name}Head': 'mmkd.det.distributional'
    for name in ('ATSS', 'FCOS', 'Retina')
}


class LeafRegistry(root.Registry):
    """A registry that imports the leaves' host classes one by one."""

    def get(self, key: str) -> Any:
        if key in HOST_CLASSES:
            importlib.import_module(HOST_CLASSES[key])
        return super().get(key)


# `locations` are imported at the first look-up of an `mmkd.*` name, which is
# what keeps `import mmkd` light.  The leaves listed here import their host
# library when they build something, not before.
MODELS = LeafRegistry(
    'model',
    parent=root.MODELS,
    scope='mmkd',
    locations=[
        'mmkd.distill',
        'mmkd.losses',
        'mmkd.adapters',
        'mmkd.det',
        'mmkd.seg',
    ],
)
HOOKS = root.Registry('hook', parent=root.HOOKS, scope='mmkd', locations=['mmkd.hooks'])
