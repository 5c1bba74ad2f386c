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
        self._import_host_class(key)
        return super().get(key)

    def own(self, name: str) -> Any:
        """What is registered here under a name, not in a parent; or ``None``."""
        self.import_from_location()
        self._import_host_class(name)
        return self.module_dict.get(name)

    def _import_host_class(self, name: str) -> None:
        if name in HOST_CLASSES:
            importlib.import_module(HOST_CLASSES[name])


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
        'mmkd.critics',
        'mmkd.det',
        'mmkd.seg',
        'mmkd.netaug',
        'mmkd.text',
        'mmkd.gan',
    ],
)
HOOKS = LeafRegistry(
    'hook',
    parent=root.HOOKS,
    scope='mmkd',
    locations=[
        'mmkd.hooks',
        'mmkd.gan.cost',
        'mmkd.seg.picture_hook',
        'mmkd.text.linear_probe_hook',
    ],
)
LOG_PROCESSORS = LeafRegistry(
    'log processor',
    parent=root.LOG_PROCESSORS,
    scope='mmkd',
    locations=['mmkd.log_processor'],
)
DATASETS = LeafRegistry(
    'dataset',
    parent=root.DATASETS,
    scope='mmkd',
    locations=[
        'mmkd.cache.seeded_views',
        'mmkd.text.dataset',
        'mmkd.gan.datasets',
        'mmkd.gan.label_pictures',
    ],
)
METRICS = LeafRegistry(
    'metric',
    parent=root.METRICS,
    scope='mmkd',
    locations=['mmkd.text.metric', 'mmkd.gan.metrics', 'mmkd.gan.segmentation'],
)
FUNCTIONS = LeafRegistry(
    'function',
    parent=root.FUNCTIONS,
    scope='mmkd',
    locations=['mmkd.text.dataset'],
)
OPTIM_WRAPPER_CONSTRUCTORS = LeafRegistry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmkd',
    locations=['mmkd.gan.optim'],
)
TRANSFORMS = LeafRegistry(
    'transform',
    parent=root.TRANSFORMS,
    scope='mmkd',
    locations=['mmkd.gan.transforms', 'mmkd.gan.edges', 'mmkd.gan.label_pictures'],
)
